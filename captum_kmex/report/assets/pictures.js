// Pictures: decoded when they come into view, boxed where a patch lies.

const sources = new WeakMap();
const watcher = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    watcher.unobserve(target);
    target.src = sources.get(target)();
  }
}, { rootMargin: "200px" });

function pictureElement(source, text) {
  const picture = make("img", { alt: text, decoding: "async" });
  sources.set(picture, source);
  watcher.observe(picture);
  return picture;
}

// Before the page is printed: what was not in view yet would be missing.
function showAllPictures() {
  for (const picture of document.images) {
    const source = sources.get(picture);
    if (source && !picture.src && picture.closest("details:not([open])") === null) picture.src = source();
  }
}

const thumbnail = (i) => pictureElement(() => imageOf(i).picture, "");

// Training image, distance, place of its picture, and the box as shares of the image.
function patchFigure(depth, k, [index, distance, place, left, top, width, height], color) {
  const text = `training image ${index}, distance ${fixed(distance, 2)}`;
  if (place < 0) return make("span", { class: "patch absent", title: text }, `#${index}`);
  const group = groupOf(report.depths[depth].owner[k]);
  const box = make("span", { class: "box" });
  Object.assign(box.style, {
    left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * width}%`, height: `${100 * height}%`,
  });
  const frame = make("span", { class: "patch", title: text },
    pictureElement(() => group.pictures[place], `Patch in ${text}`), box);
  if (color) frame.style.setProperty("--color", color);
  return frame;
}

function patchRow(depth, k, color, most = 5) {
  const { patches } = prototypeOf(depth, k);
  const row = make("div", { class: "patches" });
  row.append(...patches.slice(0, most).map((patch) => patchFigure(depth, k, patch, color)));
  return row;
}

function contrastingInk(color) {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const part = parseInt(color.slice(at, at + 2), 16) / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? "#000" : "#fff";
}

const segmentColor = (rank) => report.colors[rank % report.colors.length];

function chip(rank) {
  const node = make("span", { class: "chip" }, String(rank + 1));
  node.style.background = segmentColor(rank);
  node.style.color = contrastingInk(segmentColor(rank));
  return node;
}
