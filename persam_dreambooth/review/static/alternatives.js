// Other masks for the photo on the canvas, as small pictures to choose from.

async function offer() {
  const photo = photoOf(page.current);
  if (page.busy || !photo || page.imageName !== photo.name) return;
  page.busy = true;
  part("busy").hidden = false;
  const answer = await ask("alternatives", { photo: photo.name });
  page.busy = false;
  part("busy").hidden = true;
  if (answer.error) return say(answer.error, true);
  showAlternatives(answer.alternatives);
  say(answer.alternatives.length ? "Click on the mask of the subject." : "SAM finds no other masks here: click, or use the brush.");
}

function showAlternatives(found) {
  part("others").hidden = found.length === 0;
  part("others").replaceChildren(...found.map(({ key, picture, words }) => {
    const button = document.createElement("button"), image = document.createElement("img"), caption = document.createElement("span");
    image.src = picture;
    image.alt = "";
    caption.textContent = words;
    button.append(image, caption);
    button.title = "Make this the mask of the photo";
    button.onclick = async () => {
      if (!(await change("take", { key }, "mask chosen"))) return;
      for (const other of part("others").children) other.classList.toggle("on", other === button);
    };
    return button;
  }));
}
