'use strict';
// What a page of moving poses computes and draws, without a document: node runs it in the tests.
// A view is {azimuth, elevation} in degrees and a zoom; a state is a view with {frame, playing, speed}.

const SPEEDS = [0.1, 0.25, 0.5, 1, 2, 4];
const TILT = [-30, 90];
const ZOOM = [0.25, 8];
const GUTTER = 52;  // pixels left of the curves, for the numbers of their axis
const BONE_WIDTH = 4, GHOST_WIDTH = 5, OTHER_WIDTH = 2, FAINT_WIDTH = 1.5;

const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));

// Return the numbers of a packed array, frame after frame, in units of `unit`, and how many there are in a frame.
function unpack(text, frames, unit = 1) {
  const bytes = atob(text);
  let count = 0;
  for (let k = 0; k < bytes.length; k++) if (bytes.charCodeAt(k) < 128) count++;
  const width = count / frames, values = new Float64Array(count), last = new Float64Array(width);
  for (let k = 0, index = 0; index < count; index++) {
    // Seven bits a byte, the lowest first. No bit operators: they end at 32 bits.
    let number = 0, scale = 1, byte;
    do {
      byte = bytes.charCodeAt(k++);
      number += (byte % 128) * scale;
      scale *= 128;
    } while (byte >= 128);
    const column = index % width;
    last[column] += number % 2 ? -(number + 1) / 2 : number / 2;
    values[index] = last[column] * unit;
  }
  return {values, width};
}

// Return the axes of the picture in the world: right, up and towards the viewer, nine numbers.
function axesOf(view) {
  const a = view.azimuth * Math.PI / 180, e = view.elevation * Math.PI / 180;
  const [sa, ca, se, ce] = [Math.sin(a), Math.cos(a), Math.sin(e), Math.cos(e)];
  return [-sa, ca, 0, -se * ca, -se * sa, ce, ce * ca, ce * sa, se];
}

// Write (right, up, nearness) in metres of `count` points from values[from...] into `out`, relative to a centre.
function project(values, from, count, centre, axes, out) {
  for (let j = 0; j < count; j++) {
    const x = values[from + 3 * j] - centre[0], y = values[from + 3 * j + 1] - centre[1];
    const z = values[from + 3 * j + 2] - centre[2];
    for (let k = 0; k < 3; k++) out[3 * j + k] = x * axes[3 * k] + y * axes[3 * k + 1] + z * axes[3 * k + 2];
  }
  return out;
}

// Return where the centre lies on a canvas, {x, y, scale} in pixels and pixels a metre, so that a floor of `edge`
// metres around it and a person of `top` fit; the centre is half as high as the person.
function placeOf(width, height, edge, top, zoom) {
  const tall = 1.1 * top + 0.5 * edge;
  return {x: width / 2, y: height * 0.55 * top / tall, scale: zoom * Math.min(width / (2.9 * edge), height / tall)};
}

// Return the position, in frames, after some seconds of playing, which begins anew at the end.
const advance = (position, seconds, fps, speed, frames) => (position + seconds * fps * speed) % frames;

// Return where a frame lies on the curves, whose canvas is `width` pixels wide; and the frame that lies nearest to x.
const acrossCurve = (frame, width, frames) => GUTTER + (width - GUTTER - 4) * frame / Math.max(frames - 1, 1);
const scrubbed = (x, width, frames) => clamp(
  Math.round((x - GUTTER) / Math.max(width - GUTTER - 4, 1) * (frames - 1)), [0, frames - 1]);
const upCurve = (value, height, most) => height - 3 - (height - 10) * value / most;

// Return the view after a drag by pixels: the person turns with the pointer.
function dragged(view, dx, dy) {
  return {azimuth: (view.azimuth - 0.4 * dx) % 360, elevation: clamp(view.elevation + 0.4 * dy, TILT)};
}

const zoomed = (zoom, factor) => clamp(zoom * factor, ZOOM);

// Return what a key changes of a state; null for a key that means nothing. `second`: frames a second.
function keyed(state, key, shift, frames, second) {
  const to = (frame) => ({frame: clamp(frame, [0, frames - 1]), playing: false});
  const faster = (by) => ({speed: SPEEDS[clamp(SPEEDS.indexOf(state.speed) + by, [0, SPEEDS.length - 1])]});
  const turned = {ArrowLeft: [-25, 0], ArrowRight: [25, 0], ArrowUp: [0, -12.5], ArrowDown: [0, 12.5]}[key];
  if (shift && turned) return dragged(state, ...turned);
  switch (key) {
    case ' ': return {playing: !state.playing};
    case 'ArrowLeft': return to(state.frame - 1);
    case 'ArrowRight': return to(state.frame + 1);
    case 'PageUp': return to(state.frame - second);
    case 'PageDown': return to(state.frame + second);
    case 'Home': return to(0);
    case 'End': return to(frames - 1);
    case 'ArrowUp': return faster(1);
    case 'ArrowDown': return faster(-1);
    case '+': case '=': return {zoom: zoomed(state.zoom, 1.2)};
    case '-': case '_': return {zoom: zoomed(state.zoom, 1 / 1.2)};
    case '0': return {reset: true};
    default: return null;
  }
}

// Return the bones' indices, the farthest first, given projected joints.
function byDepth(bones, projected) {
  const depth = bones.map(([a, b]) => projected[3 * a + 2] + projected[3 * b + 2]);
  return bones.map((_, index) => index).sort((p, q) => depth[p] - depth[q]);
}

function line(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}

// Draw the bones of a pose. `place`: {x, y, scale}, pixels of the centre and pixels a metre. `style`: {colours by side,
// or one colour; width, alpha, dash; the background's colour as halo, which keeps crossing bones apart, or as hollow,
// which leaves the outlines of bones}.
function drawBones(context, bones, projected, place, style) {
  const at = (j) => [place.x + place.scale * projected[3 * j], place.y - place.scale * projected[3 * j + 1]];
  context.lineCap = 'round';
  context.globalAlpha = style.alpha || 1;
  context.setLineDash(style.dash || []);
  for (const index of byDepth(bones, projected)) {
    const [joint, parent, side] = bones[index];
    const ends = [...at(parent), ...at(joint)];
    if (style.halo) {
      context.strokeStyle = style.halo;
      context.lineWidth = style.width + 3;
      line(context, ...ends);
    }
    context.strokeStyle = style.colour || style.colours[side];
    context.lineWidth = style.width;
    line(context, ...ends);
  }
  if (style.hollow) {
    context.strokeStyle = style.hollow;
    context.lineWidth = style.width - 3;
    for (const [joint, parent] of bones) line(context, ...at(parent), ...at(joint));
  }
  context.setLineDash([]);
  context.globalAlpha = 1;
}

// Return metres between the lines of the floor: `tile`, or more where there would be more than 40 lines.
function tileOf(tile, edge) {
  for (const factor of [1, 2, 4, 10, 20, 40, 100]) if (2 * edge / (tile * factor) <= 40) return tile * factor;
  return edge / 20;
}

// Draw the floor, z = 0, around a centre; its lines are fixed in the world.
function drawFloor(context, centre, axes, edge, tile, place, colours) {
  const at = (x, y) => {
    const [r, u] = project([x, y, 0], 0, 1, centre, axes, [0, 0, 0]);
    return [place.x + place.scale * r, place.y - place.scale * u];
  };
  const [x0, x1, y0, y1] = [centre[0] - edge, centre[0] + edge, centre[1] - edge, centre[1] + edge];
  context.fillStyle = colours.floor;
  context.strokeStyle = colours.grid;
  context.lineWidth = 1;
  context.beginPath();
  for (const [x, y] of [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) context.lineTo(...at(x, y));
  context.closePath();
  context.fill();
  context.stroke();
  const apart = tileOf(tile, edge);
  for (let x = Math.ceil(x0 / apart) * apart; x < x1; x += apart) line(context, ...at(x, y0), ...at(x, y1));
  for (let y = Math.ceil(y0 / apart) * apart; y < y1; y += apart) line(context, ...at(x0, y), ...at(x1, y));
}

// Draw the poses of a moment. Each of `poses` is {values, from, centre (x, y, z), style}; the last lies in front and
// throws the shadow. `scene`: {bones, joints, edge, top, tile, colours; names that stand above the joints of some}.
function drawView(context, width, height, scene, view, poses) {
  context.clearRect(0, 0, width, height);
  if (!poses.length) return;
  const axes = axesOf(view), place = placeOf(width, height, scene.edge, scene.top, view.zoom);
  const first = poses[poses.length - 1], out = new Float64Array(3 * scene.joints);
  drawFloor(context, first.centre, axes, scene.edge, scene.tile, place, scene.colours);
  const flat = first.values.slice(first.from, first.from + 3 * scene.joints);
  for (let j = 0; j < scene.joints; j++) flat[3 * j + 2] = 0;
  const shadow = {colour: scene.colours.shadow, width: BONE_WIDTH};
  drawBones(context, scene.bones, project(flat, 0, scene.joints, first.centre, axes, out), place, shadow);
  for (const {values, from, centre, style} of poses) {
    drawBones(context, scene.bones, project(values, from, scene.joints, centre, axes, out), place, style);
  }
  drawNames(context, scene.names || [], out, place);
}

// Write names, each {text, colour, from, count}, above the highest of their projected joints.
function drawNames(context, names, projected, place) {
  context.font = '600 13px system-ui, sans-serif';
  context.textAlign = 'center';
  for (const {text, colour, from, count} of names) {
    let top = from;
    for (let j = from; j < from + count; j++) if (projected[3 * j + 1] > projected[3 * top + 1]) top = j;
    context.fillStyle = colour;
    context.fillText(text, place.x + place.scale * projected[3 * top],
                     place.y - place.scale * projected[3 * top + 1] - 8);
  }
}

// Draw the keypoints of a moment as they lie in the picture; `input`: {bones, values, width, box, size}.
function drawInput(context, width, height, input, frame, colours) {
  const [left, top, right, bottom] = input.box;
  const scale = Math.min(width / (right - left), height / (bottom - top));
  const x = (value) => width / 2 + scale * (value - (left + right) / 2);
  const y = (value) => height / 2 + scale * (value - (top + bottom) / 2);
  context.clearRect(0, 0, width, height);
  context.lineWidth = 1;
  context.strokeStyle = colours.grid;
  if (input.size) context.strokeRect(x(0), y(0), scale * input.size[0], scale * input.size[1]);
  const from = frame * input.width;
  context.lineCap = 'round';
  context.lineWidth = BONE_WIDTH - 1;
  for (const [joint, parent, side] of input.bones) {
    context.strokeStyle = colours.sides[side];
    const [a, b] = [from + 2 * parent, from + 2 * joint];
    line(context, x(input.values[a]), y(input.values[a + 1]), x(input.values[b]), y(input.values[b + 1]));
  }
}

// Return a round number of at most half of `most`, for the lines of an axis.
function roundStep(most) {
  const ten = 10 ** Math.floor(Math.log10(most / 2));
  return [5, 2, 1].map((factor) => factor * ten).find((step) => step <= most / 2);
}

// Draw curves over frames, {values, dash} each, from 0 to `most` millimetres.
function drawCurves(context, width, height, curves, most, colours) {
  context.clearRect(0, 0, width, height);
  const y = (value) => upCurve(value, height, most);
  context.textAlign = 'right';
  context.font = '11px system-ui, sans-serif';
  context.fillStyle = colours.dim;
  context.strokeStyle = colours.grid;
  context.lineWidth = 1;
  for (let mark = 0; mark <= most; mark += roundStep(most)) {
    line(context, GUTTER, y(mark), width, y(mark));
    context.fillText(`${Number(mark.toPrecision(6))} mm`, GUTTER - 6, Math.min(y(mark) + 4, height - 1));
  }
  context.strokeStyle = colours.ink;
  context.lineWidth = 1.5;
  for (const {values, dash} of curves) {
    context.setLineDash(dash);
    context.beginPath();
    values.forEach((value, frame) => context.lineTo(acrossCurve(frame, width, values.length), y(value)));
    context.stroke();
  }
  context.setLineDash([]);
}

if (typeof module !== 'undefined') {
  module.exports = {acrossCurve, advance, axesOf, dragged, drawBones, drawCurves, drawFloor, drawInput, drawView, keyed,
                    placeOf, project, roundStep, scrubbed, tileOf, unpack, upCurve, zoomed};
}
