// The masks' tab. It stores nothing: every gesture is sent, saved, and answered with the photo's newest state.
// File names come from the disk and are only ever set as text, never as HTML.
const part = (id) => element.querySelector(`[data-id="${id}"]`);
const SIDE = 1600, IDLE = 4000, BUSY = 500, HIDDEN = 30000;
const TINT = [45, 212, 191];
const UNCERTAIN = ["unsure", "not found", "left out", "changed"];
const LABELS = { "given": "made elsewhere", "waiting": "no mask yet", "changed": "changed: segment again" };
const HINTS = {
  add: "Click on what belongs to the subject.", remove: "Click on what does not belong to it.",
  box: "Drag a box around the subject.", brush: "Paint what belongs to the subject.", eraser: "Erase what does not.",
};

const page = {
  album: null, photos: [], notShown: [], order: [], worst: [], since: null, current: null, filter: "open", running: false,
  image: null, imageName: null, mask: null, size: null, seen: null,  // what is on the canvas, and its version
  tool: "add", stroke: null, pointer: null, busy: false, crop: 0,
};

async function ask(name, question) {
  const silence = { error: "the server does not answer; is it still running?" };
  try {
    return (await server[name]({ album: page.album, ...question })) ?? silence;
  } catch (error) {
    return silence;
  }
}

function say(words, refused = false) {
  part("said").textContent = words;
  part("said").classList.toggle("refused", refused);
}
