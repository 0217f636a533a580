// The address of what is seen, to be sent or kept: #image=3&why=4&not=2&depth=1&show=map&segment=5

const address = { isWritten: false };

function writeAddress() {
  if (!address.isWritten) return;
  const parts = {
    image: state.image, why: state.target, not: state.against, depth: state.depth || null,
    show: state.overlay === overlays()[0][0] ? null : state.overlay,
    segment: state.selected ? state.selected + 1 : null,
  };
  const told = Object.entries(parts).filter(([, value]) => value !== null);
  history.replaceState(null, "", `#${told.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&")}`);
}

// A class by its number or its name; -1 if there is none such.
const classBy = (text) => (/^\d+$/.test(text) ? Number(text) : report.classNames.indexOf(text));

// Show what an address says; what it does not say, or says wrongly, is as at first.
function followAddress() {
  const said = new URLSearchParams(location.hash.slice(1));
  const wanted = Number(said.get("image"));
  if (!said.has("image") || !(wanted >= 0 && wanted < nImages)) return false;
  const depth = Number(said.get("depth") ?? 0);
  state.depth = depth >= 0 && depth < report.depths.length ? depth : 0;
  const shown = said.get("show");
  state.overlay = overlays().some(([value]) => value === shown) ? shown : overlays()[0][0];
  showImage(Math.trunc(wanted));
  const { targets } = imageOf(state.image);
  const [why, not] = ["why", "not"].map((name) => classBy(said.get(name) ?? ""));
  const change = { against: targets.includes(not) ? not : null };
  if (targets.includes(why)) change.target = why;
  ask(change);
  renderQuestion();
  renderOverlays();
  const segment = Number(said.get("segment")) - 1;
  if (hasSegments && segment > 0 && segment < atDepth(`${state.image}/${state.depth}`).prototypes.length) select(segment, false);
  markCurrent();
  return true;
}
