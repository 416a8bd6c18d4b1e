// Gestures and decisions: each is sent immediately.

function place(event) {
  const frame = canvas.getBoundingClientRect();
  return [(event.clientX - frame.left) / scale, (event.clientY - frame.top) / scale];
}

canvas.addEventListener("pointerdown", (event) => {
  if (page.busy || !page.image || page.imageName !== page.current || event.button) return;
  const kind = isBrush(page.tool) || page.tool === "box" ? page.tool : "point";
  page.stroke = { kind, points: [place(event)], radius: radius(), label: (page.tool === "remove") !== event.shiftKey ? 0 : 1 };
  canvas.setPointerCapture(event.pointerId);
  paint();
});
canvas.addEventListener("pointermove", (event) => {
  page.pointer = place(event);
  if (!page.stroke || page.busy || page.stroke.kind === "point") {
    if (isBrush(page.tool)) paint();
    return;
  }
  if (page.stroke.kind === "box") page.stroke.points.length = 1;
  page.stroke.points.push(place(event));
  paint();
});
canvas.addEventListener("pointerup", () => {
  const stroke = page.stroke;
  if (!stroke || page.busy) return;
  if (stroke.kind === "box" && stroke.points.length < 2) {
    page.stroke = null;
    return paint();
  }
  change("draw", { strokes: [stroke] }, stroke.kind === "brush" || stroke.kind === "eraser" ? "saved" : "found and saved");
});
canvas.addEventListener("pointerleave", () => { page.pointer = null; paint(); });
canvas.addEventListener("pointercancel", () => { page.stroke = null; paint(); });

// Send one decision on the current photo with the version on the canvas; the answer has the newest one.
async function change(name, question, done) {
  const photo = photoOf(page.current);
  if (page.busy || !photo || page.imageName !== photo.name) return false;
  page.busy = true;
  part("busy").hidden = name !== "draw";
  const answer = await ask(name, { photo: photo.name, seen: page.seen, ...question });
  page.busy = false;
  part("busy").hidden = true;
  page.stroke = null;
  if (answer.error) {
    const newest = await ask("look", { photo: photo.name });
    if (newest.photo) await show(newest.photo);
    say(answer.error, true);
    return false;
  }
  await show(answer.photo);
  say(`${photo.name}: ${done}`);
  return true;
}

async function decide(verdict) {
  const photo = photoOf(page.current), takeBack = photo?.status === verdict;
  const ok = await change("judge", { verdict: takeBack ? null : verdict }, takeBack ? "back to “To do”" : verdict);
  if (ok && !takeBack) step(1);
}

function refer() {
  const photo = photoOf(page.current);
  if (!photo) return;
  const wanted = photo.status !== "reference";
  change("refer", { reference: wanted }, wanted ? "a reference now; press “Find in all photos” to use it" : "no longer a reference");
}

function step(by) {
  const visible = page.photos.filter((photo) => shows[page.filter](photo) || photo.name === page.current);
  const here = visible.findIndex((photo) => photo.name === page.current);
  const next = visible[here + by];
  if (next) choose(next.name);
  else say(by > 0 ? "That was the last photo." : "That was the first photo.");
}
