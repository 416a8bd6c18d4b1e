"""The review page: see, correct and approve the masks of a folder in a browser, and look at finished runs.

`workspace` holds the folders, `album` what is in one, `clicks` and `strokes` make masks of what a person draws,
`search` finds the subject in the other photos, `training_view` shows what training will see and `runs` what it left;
`api` answers the page in JSON, `page` lays it out and `server` hands it to a browser. Only the last two import Gradio.
"""
