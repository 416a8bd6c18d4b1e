// The list of photos, the worst first.

const photoOf = (name) => page.photos.find((photo) => photo.name === name);
const isOpen = (photo) => !["approved", "excluded", "reference"].includes(photo.status);
const shows = {
  open: isOpen, all: () => true, excluded: (photo) => photo.status === "excluded",
  approved: (photo) => ["approved", "reference"].includes(photo.status),
};

const percent = (photo) => `${Math.round(photo.probability * 100)} %`;

function describe(photo) {
  const words = [];
  if (photo.score != null) words.push(`score ${Math.min(photo.score, 1).toFixed(2)}`);
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
    status.classList.toggle("uncertain", UNCERTAIN.includes(photo.status));
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
  const hidden = page.notShown;
  const names = hidden.slice(0, 2).join(", ") + (hidden.length > 2 ? " …" : "");
  part("count").textContent = `${page.photos.length} photos · ${found} with a mask · ${done} reviewed`
    + (hidden.length ? ` · ${hidden.length} not shown (links out of the folder, or names that are not UTF-8): ${names}` : "");
}

// The order stays while somebody works, so that nothing jumps; a search sorts again.
function arrange(photos, reorder) {
  if (reorder) page.order = photos.map((photo) => photo.name);
  const place = new Map(page.order.map((name, number) => [name, number]));
  const last = page.order.length;
  page.photos = photos.sort((a, b) => (place.get(a.name) ?? last) - (place.get(b.name) ?? last));
}

function replacePhoto(photo) {
  const place = page.photos.findIndex((known) => known.name === photo.name);
  if (place >= 0) page.photos[place] = { ...page.photos[place], ...photo };
  showList();
  return page.photos[place];
}
