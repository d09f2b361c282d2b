'use strict';
// The page itself: what it shows, and what pointers and keys change of it. What it computes is in motion.js.
(() => {
  const $ = (id) => document.getElementById(id);
  const motion = JSON.parse($('motion').textContent);
  const {frames, fps, joints, bones, azimuth, elevation, root} = motion;
  const {values: numbers} = unpack(motion.numbers, frames);
  const {values: seconds} = unpack(motion.seconds, frames, 0.01);
  const series = motion.series.map(({name, poses, errors, truth}) => ({
    name, truth, values: unpack(poses, frames, 0.001).values, errors: errors && unpack(errors, frames, 0.1).values}));
  const clouds = motion.hypotheses.map((poses) => unpack(poses, frames, 0.001).values);
  // Several people are one series, whose joints are theirs one after another.
  const people = motion.people && {...motion.people, there: unpack(motion.people.there, frames).values};
  const input = motion.input && {...motion.input, ...unpack(motion.input.points, frames, motion.input.unit)};
  const truth = series.find((one) => one.truth);
  const judged = series.filter((one) => one.errors);
  judged.forEach((one, index) => {
    one.worst = one.errors.reduce((worst, error, frame) => (error > one.errors[worst] ? frame : worst), 0);
    one.dash = [[], [5, 3], [2, 2]][index % 3];
  });
  const start = {azimuth, elevation, zoom: 1};
  const state = {...start, frame: 0, position: 0, playing: false, speed: 1};
  const shown = new Set([...series.map((_, index) => index), 'hypotheses', ...(people ? people.names : [])]);
  let colours, figures = [], curves = null;

  // ---- where things are ----
  // Where nothing is followed, the view takes in the whole path of the root.
  const path = (truth || series[0]).values;
  const [low, high] = [[Infinity, Infinity], [-Infinity, -Infinity]];
  for (let frame = 0; frame < frames; frame++) {
    for (const axis of [0, 1]) {
      const place = path[3 * (frame * joints.length + root) + axis];
      low[axis] = Math.min(low[axis], place);
      high[axis] = Math.max(high[axis], place);
    }
  }
  const roaming = people ? 0 : Math.max(high[0] - low[0], high[1] - low[1]) / 2;

  function centreOf(one, frame) {
    const {values} = truth || one, at = 3 * (frame * joints.length + root);
    if (people) return [...people.centre, motion.top / 2];
    if ($('follow').checked) return [values[at], values[at + 1], motion.top / 2];
    return [(low[0] + high[0]) / 2, (low[1] + high[1]) / 2, motion.top / 2];
  }

  // ---- drawing ----
  function readColours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    colours = Object.fromEntries(['ghost', 'ink', 'dim', 'panel', 'floor', 'grid', 'shadow'].map((n) => [n, of(n)]));
    colours.sides = people ? people.colours.flat() : ['middle', 'left', 'right'].map(of);
  }

  // Fit a canvas to its place on the screen; return its context, in CSS pixels.
  function fitted(canvas) {
    const ratio = window.devicePixelRatio || 1, {clientWidth: width, clientHeight: height} = canvas;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const context = canvas.getContext('2d');
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return [context, width, height];
  }

  // Return the poses of a view, those in front last; `own` is the series that it belongs to, null for all of them.
  function posesOf(own, frame) {
    const plain = {colours: colours.sides, width: BONE_WIDTH, halo: colours.panel}, poses = [];
    const add = (one, style, values = one.values) => poses.push(
      {values, from: frame * 3 * joints.length, centre: centreOf(one, frame), style});
    const main = own === null ? series.findIndex((_, index) => shown.has(index)) : own;
    if (main < 0) return poses;
    series.forEach((one, index) => {
      if (index === main || !shown.has(index)) return;
      if (one.truth) add(one, {colour: colours.ghost, width: GHOST_WIDTH, hollow: colours.panel});
      else if (own === null) add(one, {colours: colours.sides, width: OTHER_WIDTH, dash: [6, 5], alpha: 0.9});
    });
    if (main === 0 && shown.has('hypotheses')) {
      const faint = {colours: colours.sides, width: FAINT_WIDTH, alpha: motion.faint};
      clouds.forEach((values) => add(series[0], faint, values));
    }
    add(series[main], plain);
    return poses;
  }

  // Return the bones of who is there and shown; a person has three sides.
  function bonesAt(all, frame) {
    const visible = ([, , side]) => {
      const who = Math.floor(side / 3);
      return shown.has(people.names[who]) && people.there[frame * people.names.length + who];
    };
    return people ? all.filter(visible) : all;
  }

  // Return what stands above whom: {text, colour, joints (the first and their count)}.
  function namesAt(frame) {
    if (!people) return [];
    return people.names.flatMap((text, who) => (
      shown.has(text) && people.there[frame * people.names.length + who] ?
        [{text, colour: people.colours[who][0], from: people.each * who, count: people.each}] : []));
  }

  const millimetres = (one) => (one.errors ? `: error ${one.errors[state.frame].toFixed(1)} mm` : '');

  function draw() {
    const begun = performance.now(), frame = state.frame;
    const edge = 1.1 * motion.reach + ($('follow').checked ? 0 : roaming);
    const scene = {bones: bonesAt(bones, frame), names: namesAt(frame), joints: joints.length, edge, top: motion.top, tile: motion.tile, colours};
    for (const {canvas, caption, own} of figures) {
      const [context, width, height] = fitted(canvas);
      if (own === 'input') {
        drawInput(context, width, height, {...input, bones: bonesAt(input.bones, frame)}, frame, colours);
        continue;
      }
      drawView(context, width, height, scene, state, posesOf(own, frame));
      const told = own === null ? series.filter((one, index) => shown.has(index)) : [series[own]];
      caption.textContent = told.map((one) => one.name + millimetres(one)).join(' · ');
    }
    drawErrors(frame);
    const clock = `frame ${numbers[frame]}, ${seconds[frame].toFixed(2)} s`;
    $('clock').textContent = clock;
    $('scrub').value = frame;
    $('scrub').setAttribute('aria-valuetext', clock);
    $('play').textContent = state.playing ? 'Pause' : 'Play';
    $('speed').value = state.speed;
    document.body.dataset.milliseconds = (performance.now() - begun).toFixed(3);
  }

  // The curves are drawn once for each size of the window; only the mark on them moves.
  function drawErrors(frame) {
    if (!judged.length) return;
    const [context, width, height] = fitted($('curve'));
    const most = 1.05 * Math.max(0.1, ...judged.map((one) => one.errors[one.worst]));
    if (!curves || curves.width !== $('curve').width || curves.height !== $('curve').height) {
      curves = document.createElement('canvas');
      [curves.width, curves.height] = [$('curve').width, $('curve').height];
      const still = curves.getContext('2d');
      still.scale(curves.width / width, curves.height / height);
      drawCurves(still, width, height, judged.map(({errors: values, dash}) => ({values, dash})), most, colours);
    }
    context.clearRect(0, 0, width, height);
    context.drawImage(curves, 0, 0, width, height);
    const x = acrossCurve(frame, width, frames);
    context.strokeStyle = context.fillStyle = colours.ink;
    context.lineWidth = 1;
    line(context, x, 0, x, height);
    for (const {errors} of judged) {
      context.beginPath();
      context.arc(x, upCurve(errors[frame], height, most), 3.5, 0, 2 * Math.PI);
      context.fill();
    }
  }

  // Draw before the next picture of the screen, once however often this is called.
  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  }

  // ---- playing ----
  let before = null;
  function tick(now) {
    if (!state.playing) {
      before = null;
      return;
    }
    if (before !== null) {
      state.position = advance(state.position, Math.min(now - before, 500) / 1000, fps, state.speed, frames);
      const frame = Math.floor(state.position);
      if (frame !== state.frame) {
        state.frame = frame;
        redraw();
      }
    }
    before = now;
    requestAnimationFrame(tick);
  }

  function change(changes) {
    if (changes.reset) changes = {...start};
    const resumes = changes.playing && !state.playing;
    Object.assign(state, changes);
    if (changes.frame !== undefined) state.position = state.frame;
    if (resumes) requestAnimationFrame(tick);
    redraw();
  }

  // ---- what is on the page ----
  function element(name, attributes = {}, parent = null) {
    const made = Object.assign(document.createElement(name), attributes);
    if (parent) parent.append(made);
    return made;
  }

  function layOut() {
    $('panels').replaceChildren();
    sizes.disconnect();
    sizes.observe($('error'));
    const views = $('layout').value === 'one' ? [null] : [...series.keys()].filter((index) => shown.has(index));
    figures = [...(input ? ['input'] : []), ...views].map((own) => {
      const figure = element('figure', {className: own === 'input' ? 'input' : 'view'}, $('panels'));
      const canvas = element('canvas', {}, figure);
      const caption = element('figcaption', {textContent: '2D input'}, figure);
      canvas.setAttribute('role', 'img');
      const what = own === null ? 'Poses' : own === 'input' ? '2D input' : series[own].name;
      canvas.setAttribute('aria-label', own === 'input' ? 'Keypoints in the picture' :
        `${what} in 3D: drag, or hold Shift with an arrow key, to turn`);
      if (own !== 'input') listenTo(canvas);
      sizes.observe(canvas);
      return {canvas, caption, own};
    });
    redraw();
  }

  function swatch(label, style, key) {
    const holder = element('label', {}, $('shown'));
    if (key !== undefined) {
      const box = element('input', {type: 'checkbox', checked: true}, holder);
      box.addEventListener('change', () => {
        if (box.checked) shown.add(key);
        else shown.delete(key);
        layOut();
      });
    }
    const mark = element('span', {className: 'swatch'}, holder);
    mark.setAttribute('aria-hidden', 'true');
    mark.style.borderTop = style;
    holder.append(label);
  }

  function legend() {
    if (people) {
      people.names.forEach((name, who) => swatch(`person ${name}`, `4px solid ${people.colours[who][0]}`, name));
      swatch('paler: right', `4px solid ${people.colours[0][2]}`);
      return;
    }
    swatch('left', '4px solid var(--left)');
    swatch('right', '4px solid var(--right)');
    const several = series.length > 1 || clouds.length > 0;
    series.forEach((one, index) => {
      const style = index ? '2px dashed var(--middle)' : '4px solid var(--middle)';
      if (several) swatch(one.name, one.truth ? '5px double var(--ghost)' : style, index);
    });
    if (clouds.length) swatch('hypotheses', '1px solid var(--middle)', 'hypotheses');
  }

  // ---- pointers and keys ----
  const held = new Map();
  const between = () => {
    const [a, b] = [...held.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };

  function listenTo(canvas) {
    canvas.addEventListener('pointerdown', (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, {x: event.clientX, y: event.clientY});
    });
    canvas.addEventListener('pointermove', (event) => {
      const last = held.get(event.pointerId);
      if (!last) return;
      const apart = held.size === 2 ? between() : 0;
      held.set(event.pointerId, {x: event.clientX, y: event.clientY});
      if (held.size === 1) change(dragged(state, event.clientX - last.x, event.clientY - last.y));
      else if (held.size === 2 && apart) change({zoom: zoomed(state.zoom, between() / apart)});
    });
    for (const end of ['pointerup', 'pointercancel', 'lostpointercapture']) {
      canvas.addEventListener(end, (event) => held.delete(event.pointerId));
    }
    canvas.addEventListener('wheel', (event) => {
      event.preventDefault();
      change({zoom: zoomed(state.zoom, Math.exp(-0.0015 * event.deltaY))});
    }, {passive: false});
  }

  function onKey(event) {
    const {tagName, type} = event.target;
    const press = tagName === 'BUTTON' || tagName === 'SUMMARY' || type === 'checkbox';
    if (event.ctrlKey || event.altKey || event.metaKey || tagName === 'SELECT') return;
    if (press && (event.key === ' ' || event.key === 'Enter')) return;
    const changes = keyed(state, event.key, event.shiftKey, frames, Math.max(1, Math.round(fps)));
    if (!changes) return;
    event.preventDefault();
    change(changes);
  }

  function scrub(event) {
    const {left, width} = $('curve').getBoundingClientRect();
    change({frame: scrubbed(event.clientX - left, width, frames), playing: false});
  }

  function listen() {
    document.addEventListener('keydown', onKey);
    $('scrub').addEventListener('input', () => change({frame: Number($('scrub').value), playing: false}));
    $('play').addEventListener('click', () => change({playing: !state.playing}));
    $('speed').addEventListener('change', () => change({speed: Number($('speed').value)}));
    $('in').addEventListener('click', () => change({zoom: zoomed(state.zoom, 1.2)}));
    $('out').addEventListener('click', () => change({zoom: zoomed(state.zoom, 1 / 1.2)}));
    $('reset').addEventListener('click', () => change({reset: true}));
    $('layout').addEventListener('change', layOut);
    $('follow').addEventListener('change', redraw);
    $('curve').addEventListener('pointerdown', (event) => {
      $('curve').setPointerCapture(event.pointerId);
      scrub(event);
    });
    $('curve').addEventListener('pointermove', (event) => {
      if ($('curve').hasPointerCapture(event.pointerId)) scrub(event);
    });
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
      readColours();
      curves = null;
      redraw();
    });
  }

  function tellErrors() {
    if (!judged.length) return;
    const told = judged.map(({name, errors, worst}) => {
      const mean = (errors.reduce((a, b) => a + b) / frames).toFixed(1);
      return `${name} ${mean} mm on average, at most ${errors[worst].toFixed(1)} mm at frame ${numbers[worst]}`;
    });
    $('error').hidden = false;
    $('about-error').textContent = `Error over time: ${told.join('; ')}`;
    $('curve').setAttribute('aria-label', $('about-error').textContent);
  }

  const sizes = new ResizeObserver(redraw);
  readColours();
  tellErrors();
  legend();
  $('scrub').max = frames - 1;
  for (const speed of SPEEDS) element('option', {value: speed, textContent: `${speed}×`}, $('speed'));
  $('layout').value = motion.series.filter((one) => !one.truth).length > 1 && innerWidth > 600 ? 'side' : 'one';
  $('layout-label').hidden = series.length < 2;
  $('follow-label').hidden = roaming < 0.25;
  listen();
  layOut();
  if (frames > 1 && !matchMedia('(prefers-reduced-motion: reduce)').matches) change({playing: true});
})();
