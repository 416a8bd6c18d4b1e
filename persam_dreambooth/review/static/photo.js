// The photo, its mask and the current stroke, on one canvas.

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
  page.stroke = page.imageName = null;
  say("");
  showAlternatives([]);
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
  if (answer.photo.status === "changed") say("This photo has changed since its mask was made: segment it again, or draw the subject.", true);
  else if (!answer.photo.has_mask) say("No mask yet: click on the subject, draw a box around it, or paint on it.");
}

async function show(given) {
  const photo = replacePhoto(given);
  const known = page.imageName === photo.name ? page.image : null;  // a decision changes only its mask
  const addresses = [known ? null : `${photo.url}?side=${SIDE}`, photo.has_mask ? `${photo.mask_url}?side=${SIDE}&v=${photo.version}` : null];
  const [image, mask] = await Promise.all(addresses.map((address) => address && load(address)));
  if (page.current !== photo.name) return;
  page.image = known ?? image;
  page.imageName = photo.name;
  page.seen = canvas.dataset.version = given.version;
  page.size = { width: photo.width, height: photo.height };
  page.mask = mask ? tinted(mask) : null;
  paint();
  showFacts(photo);
  showTraining();
}

// Turn a grey mask into a veil over the background and an outline of the subject.
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
let scale = 1;  // screen pixels per photo pixel

function paint() {
  const context = canvas.getContext("2d"), stage = canvas.parentElement.getBoundingClientRect();
  if (stage.width < 50 || stage.height < 50) return;  // the tab is hidden
  if (!page.image || !page.size) {
    canvas.width = canvas.height = 0;
    return;
  }
  scale = Math.min((stage.width - 24) / page.size.width, (stage.height - 24) / page.size.height);
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
