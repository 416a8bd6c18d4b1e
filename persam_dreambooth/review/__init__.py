"""The review page: see, correct and approve the masks of a folder in a browser, and look at finished runs.

`workspace` holds the folders, `album` one folder of photos; `clicks` turns a person's input into masks, `jobs` finds
the subject in the other photos, `training_view` previews a photo as training sees it, and `runs` reads training runs;
`api` answers the page in JSON, `page` lays it out and `server` serves it. Only the last two import Gradio.
"""
