// One image at one depth: its cells and evidence, and the shapes of its segments.

function numbers(text, Kind) {
  return new Kind(Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)).buffer);
}

function rowsOf(flat, count) {
  const length = flat.length / count;
  return Array.from({ length: count }, (_, row) => flat.subarray(row * length, (row + 1) * length));
}

const atDepth = memo((key) => {
  const [i, depth] = key.split("/").map(Number);
  const image = imageOf(i), record = image.depths[depth];
  const cells = numbers(record.cells, record.bytes === 1 ? Uint8Array : Uint16Array);
  const [height, width] = record.grid;
  const area = new Float64Array(record.prototypes.length);
  for (const cell of cells) area[cell] += 1 / cells.length;
  return {
    height, width, cells, area,
    prototypes: record.prototypes,
    evidence: rowsOf(numbers(record.evidence, Float64Array), image.targets.length),
    errors: record.errors ? rowsOf(numbers(record.errors, Float64Array), image.targets.length) : null,
    enough: record.enough ?? null,
    needed: record.needed ?? null,
    maps: record.maps ? rowsOf(numbers(record.maps, Float32Array), image.targets.length) : null,
    ...shapesOf(cells, height, width, record.prototypes.length),
  };
});

// Fills and edges as SVG paths in cells, and an inner point of each segment for its number.
function shapesOf(cells, height, width, count) {
  const at = (y, x) => (y < 0 || x < 0 || y >= height || x >= width ? -1 : cells[y * width + x]);
  const fills = Array(count).fill(""), edges = Array(count).fill("");
  for (let y = 0; y < height; y++) {
    for (let x = 0, start = 0; x < width; x++) {
      const own = at(y, x);
      if (at(y - 1, x) !== own) edges[own] += `M${x} ${y}h1`;
      if (at(y + 1, x) !== own) edges[own] += `M${x} ${y + 1}h1`;
      if (at(y, x - 1) !== own) edges[own] += `M${x} ${y}v1`;
      if (at(y, x + 1) === own) continue;
      edges[own] += `M${x + 1} ${y}v1`;
      fills[own] += `M${start} ${y}h${x + 1 - start}v1h${start - x - 1}z`;
      start = x + 1;
    }
  }
  return { fills, edges, centres: innerPoints(at, height, width, count) };
}

// The cell of each segment that is farthest from its border, by steps to the four neighbours.
function innerPoints(at, height, width, count) {
  const far = new Float64Array(height * width);
  const step = (y, x, dy, dx) => (at(y + dy, x + dx) === at(y, x) ? far[(y + dy) * width + x + dx] : 0);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) far[y * width + x] = 1 + Math.min(step(y, x, -1, 0), step(y, x, 0, -1));
  }
  const best = Array.from({ length: count }, () => ({ x: 0, y: 0, far: 0 }));
  for (let y = height - 1; y >= 0; y--) {
    for (let x = width - 1; x >= 0; x--) {
      const here = y * width + x;
      far[here] = Math.min(far[here], 1 + Math.min(step(y, x, 1, 0), step(y, x, 0, 1)));
      if (far[here] > best[at(y, x)].far) best[at(y, x)] = { x, y, far: far[here] };
    }
  }
  return best;
}

// What is asked of an image: evidence by segment, bias, what a linearisation leaves over, and
// logit; a contrast is a difference.
function account(i, depth, target, against) {
  const image = imageOf(i), found = atDepth(`${i}/${depth}`);
  const t = image.targets.indexOf(target), c = image.targets.indexOf(against);
  const minus = (values) => (c < 0 ? Array.from(values[t]) : Array.from(values[t], (v, s) => v - values[c][s]));
  const less = (values) => values[t] - (c < 0 ? 0 : values[c]);
  const evidence = minus(found.evidence);
  const bias = less(image.bias);
  const notLinear = image.notLinear === null ? null : less(image.notLinear);
  const order = evidence.map((_, s) => s).sort((a, b) => Math.abs(evidence[b]) - Math.abs(evidence[a]));
  return {
    evidence, bias, notLinear, order,
    errors: c < 0 && found.errors ? found.errors[t] : null,
    fewest: c < 0 && found.enough ? { enough: found.enough[t], needed: found.needed[t] } : null,
    output: less(image.output),
    total: evidence.reduce((sum, value) => sum + value, bias + (notLinear ?? 0)),
    map: found.maps ? minus(found.maps) : Array.from(found.cells, (s) => evidence[s] / (found.area[s] * found.cells.length)),
  };
}
