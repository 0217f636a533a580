// The ledger: from the bias, segment by segment, to the logit.

const SHOWN = 8;
const VISIBLE = 0.0005; // half of the last digit that is printed

function ledgerTable(sums, act) {
  const found = atDepth(`${state.image}/${state.depth}`);
  const shown = state.isExpanded || sums.order.length <= SHOWN + 1 ? sums.order : sums.order.slice(0, SHOWN);
  const rest = sums.order.slice(shown.length);
  const add = (parts) => parts.reduce((sum, s) => sum + sums.evidence[s], 0);
  const share = (parts) => parts.reduce((sum, s) => sum + found.area[s], 0);
  const lines = shown.map((s) => ({
    segment: s, value: sums.evidence[s], share: found.area[s], label: segmentButton(found, s, act),
  }));
  if (rest.length) {
    lines.push({ value: add(rest), share: share(rest), label: moreButton(`${count(rest.length, "other")}`, act.expand) });
  }
  const remainder = sums.output - sums.total;
  if (Math.abs(remainder) >= VISIBLE) lines.push({ value: remainder, share: null, label: "not in the map", kind: "remainder" });
  return make("table", { class: "ledger" },
    make("caption", {}, question(sums)),
    make("thead", {}, make("tr", {},
      make("th", { scope: "col" }, "Segment"),
      make("th", { scope: "col", class: "number" }, "Area"),
      make("th", { scope: "col", class: "number" }, "Evidence"),
      make("td", {}))),
    ledgerBody(lines, sums, state.isExpanded && sums.order.length > SHOWN + 1 ? act.expand : null),
    ledgerFoot(sums, remainder));
}

const asked = () => className(state.target) + (state.against === null ? "" : `, not ${className(state.against)}`);
const parts = (sums) => (sums.notLinear === null ? "bias" : "bias + not linear");
const question = (sums) =>
  `Why \u201c${asked()}\u201d: ${parts(sums)} + segments = ${state.against === null ? "logit" : "difference"} ${fixed(sums.output)}`;

function segmentButton(found, s, act) {
  const name = report.isFitted ? prototypeName(state.depth, found.prototypes[s]) : `segment ${s + 1}`;
  return make("button", {
    type: "button", class: "row", "data-segment": s, "aria-pressed": "false",
    click: () => act.select(s), focus: () => act.select(s),
  }, chip(s), make("span", {}, name));
}

const moreButton = (text, act) => make("button", { type: "button", class: "more", click: act }, text);

function ledgerBody(lines, sums, collapse) {
  const all = [{ value: sums.bias, share: null, label: "bias", kind: "total" }];
  if (sums.notLinear !== null) all.push({ value: sums.notLinear, share: null, label: "not linear", kind: "remainder" });
  all.push(...lines);
  let level = 0;
  const steps = all.map((line) => [level, (level += line.value)]);
  const low = Math.min(0, ...steps.flat()), high = Math.max(0, ...steps.flat());
  const body = make("tbody", {});
  all.forEach((line, i) => {
    body.append(make("tr", { "data-segment": line.segment ?? null },
      make("th", { scope: "row" }, line.label),
      make("td", { class: "number" }, line.share === null ? "" : percent(line.share)),
      make("td", { class: "number" }, signed(line.value)),
      make("td", { class: "bar" }, bar(steps[i], low, high, line.kind))));
  });
  if (collapse) body.append(make("tr", {}, make("th", { scope: "row", colspan: 4 }, moreButton("show fewer", collapse))));
  return body;
}

function bar([from, to], low, high, kind) {
  const scale = 100 / (high - low || 1);
  const node = make("span", { class: kind ?? (to < from ? "against" : "for") });
  node.style.left = `${(Math.min(from, to) - low) * scale}%`;
  node.style.width = `max(1px, ${Math.abs(to - from) * scale}%)`;
  const zero = make("span", { class: "zero" });
  zero.style.left = `${-low * scale}%`;
  return make("span", { class: "track", "aria-hidden": "true" }, zero, node);
}

function ledgerFoot(sums, remainder) {
  const line = (label, value, id) => make("tr", {},
    make("th", { scope: "row", colspan: 2 }, label), make("td", { class: "number", id }, fixed(value)), make("td", {}));
  const complete = Math.abs(remainder) < VISIBLE;
  return make("tfoot", {},
    line(complete ? `${parts(sums)} + all segments` : "all of the lines", complete ? sums.total : sums.total + remainder, "ledger-sum"),
    line(state.against === null ? "the model\u2019s logit" : "difference of the logits", sums.output, "ledger-output"));
}
