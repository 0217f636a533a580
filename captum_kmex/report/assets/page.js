// The data, and how they become text and elements. Text is only ever set as text.

const byId = (id) => document.getElementById(id);

function memo(compute) {
  const known = new Map();
  return (key) => {
    if (!known.has(key)) known.set(key, compute(key));
    return known.get(key);
  };
}

const read = (id) => JSON.parse(byId(id).textContent);
const report = read("report");
const imageOf = memo((i) => read(`image-${i}`));
const groupOf = memo((group) => read(`group-${group}`));
const className = (c) => report.classNames[c];
const nImages = report.verdicts.prediction.length;
const hasSegments = report.depths.length > 0;

// What the reader has chosen.
const state = {
  image: 0, depth: 0, target: 0, against: null, overlay: hasSegments ? "segments" : "method-0", opacity: 0.5,
  isExpanded: false, selected: null, hovered: null,
};

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const fixed = (value, digits = 3) => `${value < 0 ? "\u2212" : ""}${Math.abs(value).toFixed(digits)}`;
const signed = (value) => (value < 0 ? fixed(value) : `+${fixed(value)}`);
const count = (number, noun, many = `${noun}s`) => `${number.toLocaleString("en")} ${number === 1 ? noun : many}`;

function percent(share) {
  if (share === null) return "\u2013";
  if (share > 0 && share < 0.0005) return "< 0.1\u2009%";
  return `${(100 * share).toFixed(1)}\u2009%`;
}

function depthName(depth) {
  const layers = report.depths[depth].layers;
  return layers.length === 1 ? `${layers[0]} alone` : `${layers[0]} to ${layers[layers.length - 1]}`;
}

// The place of each prototype among those of its class, at one depth.
const placesOf = memo((depth) => {
  const seen = new Map();
  return report.depths[depth].owner.map((group) => {
    const place = seen.get(group) ?? 0;
    seen.set(group, place + 1);
    return place;
  });
});

function prototypeName(depth, k) {
  const place = placesOf(depth)[k] + 1;
  return report.isAgnostic ? `prototype #${place}` : `${className(report.depths[depth].owner[k])} #${place}`;
}

const prototypeOf = (depth, k) =>
  groupOf(report.depths[depth].owner[k]).depths[depth][placesOf(depth)[k]];

// A group of radio buttons: [value, label] each; calls back with the value.
function choice(name, title, options, chosen, act) {
  const buttons = options.map(([value, label]) =>
    make("label", {},
      make("input", { type: "radio", name, value, checked: value === chosen, change: () => act(value) }),
      make("span", {}, label)));
  return make("fieldset", { class: "choice" }, make("legend", {}, title), make("div", {}, ...buttons));
}

// One of many buttons is in the tab order; arrow keys move among them.
function roving(container, selector, columns = () => 1) {
  container.addEventListener("keydown", (event) => {
    const all = [...container.querySelectorAll(selector)];
    const here = all.indexOf(event.target.closest(selector));
    const steps = {
      ArrowRight: here + 1, ArrowLeft: here - 1, ArrowDown: here + columns(all), ArrowUp: here - columns(all),
      Home: 0, End: all.length - 1,
    };
    const to = all[steps[event.key]];
    if (here < 0 || to === undefined) return;
    event.preventDefault();
    for (const node of all) node.setAttribute("tabindex", node === to ? 0 : -1);
    to.focus();
  });
}
