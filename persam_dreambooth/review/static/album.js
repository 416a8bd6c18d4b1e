// The album, the search, keyboard shortcuts, and startup.

async function refresh(reorder) {
  const album = page.album, answer = await ask("overview", { since: page.since });
  if (album !== page.album) return;  // another folder was chosen in the meantime
  if (answer.error) return say(answer.error, true);
  const finished = page.running && !answer.running;
  page.running = answer.running;
  page.since = answer.since;
  part("looks").textContent = answer.looks_like;
  const known = new Map(answer.keeps ? page.photos.map((photo) => [photo.name, photo]) : []);
  for (const photo of answer.photos) known.set(photo.name, photo);
  if (answer.order) page.worst = answer.order;
  if (answer.not_shown) page.notShown = answer.not_shown;
  if (answer.photos.length || !answer.keeps || reorder || finished) {
    arrange(page.worst.filter((name) => known.has(name)).map((name) => known.get(name)), reorder || answer.running || finished);
    showList();
  }
  const left = page.photos.filter((photo) => photo.status === "waiting").length;
  showSearch(answer, `finding: ${left} left`);
  if (finished && answer.search_error) {
    say(answer.search_error, true);
  } else if (finished) {
    const worst = page.photos.find(isOpen);
    if (worst && !isOpen(photoOf(page.current) ?? worst)) await choose(worst.name);
    say(answer.stopped && left ? `Stopped with ${left} left to search; “Find in all photos” continues with them.`
      : "All photos searched; the worst masks come first.");
  }
  const now = photoOf(page.current);
  if (now && page.imageName === now.name && now.version !== page.seen && !page.busy && !page.stroke) {
    const newest = await ask("look", { photo: now.name });
    if (newest.photo && page.current === now.name && !page.busy) await show(newest.photo);
  }
}

// Poll for changes by other tabs and the search: less often if the server is slow, and not at all while hidden.
let timer = null, took = 0;
function keepLooking() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    if (page.album !== null && !document.hidden && !page.busy) {
      const began = performance.now();
      await refresh(false);
      took = performance.now() - began;
    }
    keepLooking();
  }, document.hidden ? HIDDEN : Math.max(page.running ? BUSY : IDLE, 10 * took));
}
document.addEventListener("visibilitychange", keepLooking);

async function open(album, name) {
  Object.assign(page, { album, photos: [], order: [], worst: [], since: null, current: null, image: null, mask: null });
  rows.clear();
  part("album").value = album;
  await refresh(true);
  paint();
  const first = photoOf(name) ?? page.photos.find((photo) => shows[page.filter](photo)) ?? page.photos[0];
  if (first) await choose(first.name);
}

async function search() {
  const answer = await ask("search", {});
  if (answer.error) return say(answer.error, true);
  page.running = true;
  keepLooking();
  showSearch(answer, "loading the SAM …");
}

async function stop() {
  const answer = await ask("stop", {});
  if (answer.error) return say(answer.error, true);
  showSearch({ ...answer, stopped: true });
}

function showSearch({ running, stopped }, words) {
  part("search").disabled = running;
  part("stop").hidden = !running;
  part("stop").disabled = Boolean(stopped);
  part("searching").textContent = !running ? "" : stopped ? "stopping after this photo …" : words;
}

function pick(tool) {
  page.tool = tool;
  for (const button of element.querySelectorAll("[data-tool]")) button.classList.toggle("on", button.dataset.tool === tool);
  say(HINTS[tool]);
}

const KEYS = {
  j: () => step(1), n: () => step(1), arrowright: () => step(1), arrowdown: () => step(1),
  k: () => step(-1), p: () => step(-1), arrowleft: () => step(-1), arrowup: () => step(-1),
  a: () => part("approve").click(), x: () => part("exclude").click(), r: () => part("refer").click(), u: () => part("undo").click(), o: offer,
  1: () => pick("add"), 2: () => pick("remove"), 3: () => pick("box"), 4: () => pick("brush"), 5: () => pick("eraser"),
};
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not([type=range]):not([type=checkbox]), textarea, select, [contenteditable]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !element.offsetParent) return;
  const act = KEYS[event.key.toLowerCase()];
  if (!act) return;
  event.preventDefault();
  act();
});

part("approve").onclick = () => decide("approved");
part("exclude").onclick = () => decide("excluded");
part("refer").onclick = refer;
part("offer").onclick = offer;
part("undo").onclick = () => change("undo", {}, "undone");
part("previous").onclick = () => step(-1);
part("next").onclick = () => step(1);
part("search").onclick = search;
part("stop").onclick = stop;
part("shown").onchange = paint;
part("another").onclick = () => { page.crop += 1; showTraining(); };
for (const id of ["resolution", "cell", "downsample", "center"]) part(id).onchange = showTraining;
for (const button of element.querySelectorAll("[data-tool]")) button.onclick = () => pick(button.dataset.tool);
for (const button of element.querySelectorAll("[data-filter]")) {
  button.onclick = () => {
    page.filter = button.dataset.filter;
    for (const other of element.querySelectorAll("[data-filter]")) other.classList.toggle("on", other === button);
    showList();
  };
}
part("album").onchange = () => open(part("album").value);
new ResizeObserver(paint).observe(canvas.parentElement);

(function start() {
  for (const name of props.value) {
    const option = document.createElement("option");
    option.value = name;
    option.textContent = name === "." ? "(the opened folder)" : name;
    part("album").append(option);
  }
  const [album, name] = location.hash.slice(1).split("/").map(decodeURIComponent);
  pick("add");
  open(props.value.includes(album) ? album : props.value[0], name);
  keepLooking();
})();
