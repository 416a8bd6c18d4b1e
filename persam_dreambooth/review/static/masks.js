// The masks' tab. It keeps nothing: every gesture is sent, saved, and answered with the photo's newest state.
// Names come from the disk and are only ever set as text, never as HTML.
const part = (id) => element.querySelector(`[data-id="${id}"]`);
const SIDE = 1600, IDLE = 4000, BUSY = 500;
const TINT = [45, 212, 191];
const DOUBTED = ["unsure", "not found", "left out"];
const LABELS = { "given": "made elsewhere", "waiting": "no mask yet" };
const HINTS = {
  add: "Click on what belongs to the subject.", remove: "Click on what does not belong to it.",
  box: "Drag a box around the subject.", brush: "Paint what belongs to the subject.", eraser: "Rub out what does not.",
};

const page = {
  album: null, photos: [], order: [], current: null, filter: "open", tool: "add", image: null, mask: null, size: null,
  stroke: null, pointer: null, busy: false, running: false, crop: 0,
};

async function ask(name, question) {
  try {
    return await server[name]({ album: page.album, ...question });
  } catch (error) {
    return { error: "the server does not answer; is it still running?" };
  }
}

function say(words, refused = false) {
  part("said").textContent = words;
  part("said").classList.toggle("refused", refused);
}

// ---- the list -------------------------------------------------------------------------------------------------

const photoOf = (name) => page.photos.find((photo) => photo.name === name);
const isOpen = (photo) => !["approved", "excluded", "reference"].includes(photo.status);
const shows = {
  open: isOpen, all: () => true, excluded: (photo) => photo.status === "excluded",
  approved: (photo) => ["approved", "reference"].includes(photo.status),
};

const percent = (photo) => `${Math.round(photo.probability * 100)} %`;

function describe(photo) {
  const words = [];
  if (photo.score != null) words.push(`score ${photo.score.toFixed(2)}`);
  if (photo.probability != null) words.push(`presence ${percent(photo)}`);
  return words.join(" · ");
}

function thumbnail(photo) {
  return photo.has_mask ? `${photo.overlay_url}?side=120&v=${photo.version}` : `${photo.url}?side=120`;
}

function row(photo) {
  const item = document.createElement("li");
  const picture = document.createElement("img"), words = document.createElement("div");
  picture.loading = "lazy";
  picture.alt = "";
  words.append(document.createElement("b"), document.createElement("span"), document.createElement("span"));
  item.append(picture, words);
  item.addEventListener("click", () => choose(photo.name));
  return item;
}

function fill(item, photo) {
  if (item.dataset.version !== photo.version) {
    const [name, status, numbers] = item.lastChild.children;
    item.dataset.version = photo.version;
    item.dataset.name = photo.name;
    item.dataset.status = photo.status;
    item.title = photo.name;
    item.firstChild.src = thumbnail(photo);
    item.classList.toggle("gone", photo.status === "excluded");
    name.textContent = photo.name;
    status.textContent = LABELS[photo.status] || photo.status;
    status.classList.toggle("doubt", DOUBTED.includes(photo.status));
    numbers.textContent = describe(photo);
  }
  item.classList.toggle("on", photo.name === page.current);
}

const rows = new Map();
function showList() {
  const visible = page.photos.filter((photo) => shows[page.filter](photo) || photo.name === page.current);
  const items = visible.map((photo) => {
    if (!rows.has(photo.name)) rows.set(photo.name, row(photo));
    fill(rows.get(photo.name), photo);
    return rows.get(photo.name);
  });
  const list = part("list");
  if (items.length !== list.children.length || items.some((item, place) => item !== list.children[place])) {
    list.replaceChildren(...items);
  }
  const done = page.photos.filter((photo) => !isOpen(photo)).length;
  const found = page.photos.filter((photo) => photo.has_mask).length;
  part("count").textContent = `${page.photos.length} photos · ${found} with a mask · ${done} settled`;
}

// The order of the first look stays while somebody works, so that nothing jumps; a search sorts anew.
function arrange(photos, anew) {
  if (anew) page.order = photos.map((photo) => photo.name);
  const place = new Map(page.order.map((name, number) => [name, number]));
  const last = page.order.length;
  page.photos = photos.sort((one, other) => (place.get(one.name) ?? last) - (place.get(other.name) ?? last));
}

function replacePhoto(photo) {
  const place = page.photos.findIndex((one) => one.name === photo.name);
  if (place >= 0) page.photos[place] = { ...page.photos[place], ...photo };
  showList();
  return page.photos[place];
}

// ---- the photo ------------------------------------------------------------------------------------------------

function load(address) {
  return new Promise((resolve) => {
    const picture = new Image();
    picture.onload = () => resolve(picture);
    picture.onerror = () => resolve(null);
    picture.src = address;
  });
}

async function choose(name) {
  if (page.busy || !photoOf(name)) return;
  page.current = name;
  location.hash = `${encodeURIComponent(page.album)}/${encodeURIComponent(name)}`;
  page.stroke = null;
  say("");
  showList();
  rows.get(name)?.scrollIntoView({ block: "nearest" });
  const answer = await ask("look", { photo: name });
  if (page.current !== name) return;
  if (answer.error) {
    page.image = page.mask = page.size = null;
    paint();
    showFacts(photoOf(name));
    return say(answer.error, true);
  }
  await show(answer.photo);
  if (!answer.photo.has_mask) say("No mask yet: click on the subject, draw a box around it, or paint on it.");
}

async function show(given) {
  const photo = replacePhoto(given);
  const addresses = [`${photo.url}?side=${SIDE}`, photo.has_mask ? `${photo.mask_url}?side=${SIDE}&v=${photo.version}` : null];
  const [image, mask] = await Promise.all(addresses.map((address) => address && load(address)));
  if (page.current !== photo.name) return;
  page.image = image;
  page.size = { width: photo.width, height: photo.height };
  page.mask = mask ? tinted(mask) : null;
  paint();
  showFacts(photo);
  showTraining();
}

// A grey mask as a veil over all but the subject, and the subject's outline.
function tinted(mask) {
  const canvas = document.createElement("canvas");
  canvas.width = mask.naturalWidth;
  canvas.height = mask.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(mask, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height), data = pixels.data;
  const inside = new Uint8Array(canvas.width * canvas.height);
  for (let place = 0; place < inside.length; place++) inside[place] = data[4 * place] > 127;
  const reach = Math.max(1, Math.round(Math.max(canvas.width, canvas.height) / 500));
  for (let place = 0; place < inside.length; place++) {
    const x = place % canvas.width;
    const edge = inside[place] && (x < reach || x >= canvas.width - reach || !inside[place - reach] ||
      !inside[place + reach] || !inside[place - reach * canvas.width] || !inside[place + reach * canvas.width]);
    data.set(edge ? [...TINT, 255] : inside[place] ? [0, 0, 0, 0] : [15, 23, 42, 130], 4 * place);
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

const canvas = part("canvas");
let scale = 1;  // screen pixels a pixel of the photo

function paint() {
  const context = canvas.getContext("2d"), room = canvas.parentElement.getBoundingClientRect();
  if (room.width < 50 || room.height < 50) return;  // the tab is hidden
  if (!page.image || !page.size) {
    canvas.width = canvas.height = 0;
    return;
  }
  scale = Math.min((room.width - 24) / page.size.width, (room.height - 24) / page.size.height);
  const width = Math.max(1, Math.round(page.size.width * scale)), height = Math.max(1, Math.round(page.size.height * scale));
  const dense = window.devicePixelRatio || 1;
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  canvas.width = width * dense;
  canvas.height = height * dense;
  context.imageSmoothingEnabled = scale < 2;
  context.drawImage(page.image, 0, 0, canvas.width, canvas.height);
  if (page.mask && part("shown").checked) context.drawImage(page.mask, 0, 0, canvas.width, canvas.height);
  context.scale(scale * dense, scale * dense);
  drawPoints(context);
  if (page.stroke) drawStroke(context, page.stroke);
  if (page.pointer && isBrush(page.tool)) drawTip(context, page.pointer);
}

const isBrush = (tool) => tool === "brush" || tool === "eraser";
const radius = () => Math.max(0.5, Number(part("size").value) / scale);

function drawTip(context, [x, y]) {
  context.beginPath();
  context.arc(x, y, radius(), 0, 2 * Math.PI);
  context.strokeStyle = "white";
  context.lineWidth = 1.5 / scale;
  context.stroke();
}

function drawPoints(context) {
  const photo = photoOf(page.current);
  if (!part("shown").checked || !photo?.points) return;
  photo.points.forEach(([x, y], number) => dot(context, x + 0.5, y + 0.5, photo.point_labels[number]));
}

function dot(context, x, y, label) {
  context.beginPath();
  context.arc(x, y, 5 / scale, 0, 2 * Math.PI);
  context.fillStyle = label ? "#16a34a" : "#dc2626";
  context.strokeStyle = "white";
  context.lineWidth = 2 / scale;
  context.fill();
  context.stroke();
}

function drawStroke(context, stroke) {
  const [first] = stroke.points, last = stroke.points.at(-1);
  if (stroke.kind === "point") return dot(context, ...first, stroke.label);
  context.strokeStyle = stroke.kind === "eraser" ? "rgba(220,38,38,.6)" : "rgba(45,212,191,.7)";
  if (stroke.kind === "box") {
    context.lineWidth = 2 / scale;
    return context.strokeRect(...first, last[0] - first[0], last[1] - first[1]);
  }
  context.lineWidth = 2 * stroke.radius;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...first);
  stroke.points.forEach((point) => context.lineTo(...point));
  context.lineTo(last[0] + 0.01, last[1]);
  context.stroke();
}

// ---- gestures -------------------------------------------------------------------------------------------------

function place(event) {
  const frame = canvas.getBoundingClientRect();
  return [(event.clientX - frame.left) / scale, (event.clientY - frame.top) / scale];
}

canvas.addEventListener("pointerdown", (event) => {
  if (page.busy || !page.image || event.button) return;
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

// One decision on the current photo: sent with the version it was made on, answered with the newest one.
async function change(name, question, done) {
  const photo = photoOf(page.current);
  if (page.busy || !photo) return false;
  page.busy = true;
  part("busy").hidden = name !== "draw";
  const answer = await ask(name, { photo: photo.name, seen: photo.version, ...question });
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
  const ok = await change("judge", { verdict: takeBack ? null : verdict }, takeBack ? "open again" : verdict);
  if (ok && !takeBack) step(1);
}

function refer() {
  const photo = photoOf(page.current);
  if (!photo) return;
  const wanted = photo.status !== "reference";
  change("refer", { reference: wanted }, wanted ? "a reference now; press “Find in all photos” to use it" : "no reference any more");
}

function step(by) {
  const visible = page.photos.filter((photo) => shows[page.filter](photo) || photo.name === page.current);
  const here = visible.findIndex((photo) => photo.name === page.current);
  const next = visible[here + by];
  if (next) choose(next.name);
  else say(by > 0 ? "That was the last one here." : "That was the first one here.");
}

// ---- what is said of it ---------------------------------------------------------------------------------------

function showFacts(photo) {
  part("name").textContent = photo?.name ?? "";
  part("status").textContent = photo ? LABELS[photo.status] || photo.status : "";
  part("status").classList.toggle("doubt", DOUBTED.includes(photo?.status));
  const facts = !photo ? [] : [
    ["Score", photo.score?.toFixed(3)], ["Presence", photo.presence && `${photo.presence}, ${percent(photo)}`],
    ["Reason", photo.reason], ["Size", page.size && `${page.size.width} × ${page.size.height}`],
    ["Note", (photo.warnings || []).join(" ")], ["Left out", photo.error],
  ];
  part("facts").replaceChildren(...facts.filter(([, value]) => value).flatMap(([name, value]) => {
    const term = document.createElement("dt"), words = document.createElement("dd");
    term.textContent = name;
    words.textContent = value;
    return [term, words];
  }));
  for (const id of ["approve", "exclude", "refer"]) part(id).disabled = !photo?.has_mask;
  part("approve").classList.toggle("on", photo?.status === "approved");
  part("undo").disabled = !photo?.can_undo;
  part("refer").firstChild.textContent = photo?.status === "reference" ? "No reference any more " : "Use as another reference ";
}

async function showTraining() {
  const photo = photoOf(page.current), picture = part("latent");
  if (!photo?.has_mask) {
    picture.removeAttribute("src");
    part("latent-words").textContent = "As soon as there is a mask.";
    return;
  }
  const view = {
    resolution: Number(part("resolution").value), cell: Number(part("cell").value),
    mask_downsample: part("downsample").value, center_crop: part("center").value === "1", seed: page.crop,
  };
  const answer = await ask("training", { photo: photo.name, view });
  if (page.current !== photo.name) return;
  if (answer.error) picture.removeAttribute("src");
  else picture.src = answer.picture;
  part("latent-words").textContent = answer.error ?? answer.words;
}

// ---- the album ------------------------------------------------------------------------------------------------

async function refresh(anew) {
  const answer = await ask("overview", {});
  if (answer.error) return say(answer.error, true);
  const finished = page.running && !answer.running;
  page.running = answer.running;
  const before = photoOf(page.current)?.version;
  arrange(answer.photos, anew || answer.running || finished);
  showList();
  const left = answer.photos.filter((photo) => photo.status === "waiting").length;
  part("search").disabled = answer.running;
  part("searching").textContent = answer.running ? `finding: ${left} left` : "";
  if (finished && answer.search_error) {
    say(answer.search_error, true);
  } else if (finished) {
    const worst = page.photos.find(isOpen);
    if (worst && !isOpen(photoOf(page.current) ?? worst)) await choose(worst.name);
    say("All photos were looked at; the worst come first.");
  }
  const now = photoOf(page.current);
  if (now && before !== undefined && now.version !== before && !page.busy && !page.stroke) {
    const newest = await ask("look", { photo: now.name });
    if (newest.photo && page.current === now.name && !page.busy) await show(newest.photo);
  }
}

// What other tabs and the search do is seen soon.
let timer = null;
function keepLooking() {
  clearTimeout(timer);
  timer = setTimeout(async () => {
    if (page.album !== null && !document.hidden && !page.busy) await refresh(false);
    keepLooking();
  }, page.running ? BUSY : IDLE);
}

async function open(album, name) {
  Object.assign(page, { album, photos: [], order: [], current: null, image: null, mask: null });
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
  part("search").disabled = true;
  part("searching").textContent = "loading the SAM …";
}

function pick(tool) {
  page.tool = tool;
  for (const button of element.querySelectorAll("[data-tool]")) button.classList.toggle("on", button.dataset.tool === tool);
  say(HINTS[tool]);
}

const KEYS = {
  j: () => step(1), n: () => step(1), arrowright: () => step(1), arrowdown: () => step(1),
  k: () => step(-1), p: () => step(-1), arrowleft: () => step(-1), arrowup: () => step(-1),
  a: () => part("approve").click(), x: () => part("exclude").click(), r: () => part("refer").click(), u: () => part("undo").click(),
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
part("undo").onclick = () => change("undo", {}, "taken back");
part("previous").onclick = () => step(-1);
part("next").onclick = () => step(1);
part("search").onclick = search;
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
