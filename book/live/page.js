// The page where readers try the network on their own pictures. Nothing leaves the page.
"use strict";

(() => {
  const root = document.getElementById("try-it");
  if (!root) return;
  const SIDE = 32;
  const LARGEST = 1024; // pixels a side of what is kept of a photograph
  const find = (name) => root.querySelector(`[data-part="${name}"]`);
  const say = (text) => (find("said").textContent = text);
  const complain = (text) => (find("trouble").textContent = text);
  let live = null; // runtime, weights and network, once they are loaded
  let photo = null; // a canvas with the picture that the reader chose
  let square = { x: 0, y: 0, size: 1 }; // in pixels of `photo`
  let others = null; // the masks of the other picture

  // --- Loading -----------------------------------------------------------------------------------------------------

  function script(name) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = `${root.dataset.folder}/${name}`;
      element.onload = resolve;
      element.onerror = () => reject(new Error(name));
      document.head.append(element);
    });
  }

  async function load() {
    find("load").disabled = true;
    say("Loading the network.");
    try {
      for (const name of ["runtime.js", "weights.js", "network.js"]) await script(name);
      const { tf, liveWasm, liveWeights } = window;
      const paths = ["", "-simd", "-threaded-simd"].map((kind) => [`tfjs-backend-wasm${kind}.wasm`, liveWasm]);
      tf.wasm.setWasmPaths(Object.fromEntries(paths));
      tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false); // all three names have the binary without threads
      if (!(await tf.env().getAsync("WASM_HAS_SIMD_SUPPORT"))) throw new Error("WebAssembly without SIMD");
      if (!(await tf.setBackend("wasm"))) throw new Error("WebAssembly");
      live = { tf, weights: liveWeights, predict: network(tf, liveWeights) };
      await choose(root.querySelector("[data-picture]"));
      find("load").hidden = true;
      find("work").hidden = false;
      find("file").focus();
    } catch (error) {
      live = null;
      find("load").disabled = false;
      say("");
      const why = error.message === "runtime.js"
        ? "This copy of the book lacks the network: when it was built, npm was missing or could not fetch TensorFlow.js."
        : `This browser could not load the network (${error.message}).`;
      complain(`${why} The pictures above stay.`);
    }
  }

  // --- Pictures ----------------------------------------------------------------------------------------------------

  async function read(file) {
    complain("");
    if (!file) return;
    if (!live) return complain("Load the network first, then give it the picture again.");
    let picture;
    try {
      picture = await createImageBitmap(file);
    } catch { // it may still be a drawing (SVG), which not every browser turns into a bitmap
      const address = URL.createObjectURL(file);
      picture = new Image();
      picture.src = address;
      try {
        await picture.decode();
      } catch {
        complain(`${file.name || "This"} is not a picture that this browser can read.`);
        return;
      } finally {
        URL.revokeObjectURL(address);
      }
    }
    take(picture, picture.naturalWidth || picture.width, picture.naturalHeight || picture.height);
    picture.close?.();
    await look().catch(failed);
  }

  async function choose(button) {
    complain("");
    const picture = new Image(); // of its own: Firefox refuses to decode the button's while that is hidden
    picture.src = button.querySelector("img").src;
    await picture.decode();
    take(picture, picture.naturalWidth, picture.naturalHeight);
    await look();
  }

  function take(source, width, height) {
    const shrink = Math.min(1, LARGEST / Math.max(width, height));
    photo = document.createElement("canvas");
    photo.width = Math.max(1, Math.round(width * shrink));
    photo.height = Math.max(1, Math.round(height * shrink));
    const context = photo.getContext("2d");
    context.fillStyle = "white"; // behind what is transparent
    context.fillRect(0, 0, photo.width, photo.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(source, 0, 0, photo.width, photo.height);
    const size = Math.min(photo.width, photo.height);
    square = { x: (photo.width - size) / 2, y: (photo.height - size) / 2, size };
    find("size").value = 100;
  }

  // The square of the photograph in 32 x 32 pixels, each the mean of what it covers.
  function pixels() {
    let canvas = photo;
    let { x, y, size } = square;
    while (size >= 2 * SIDE) {
      const half = document.createElement("canvas");
      half.width = half.height = Math.max(SIDE, Math.round(size / 2));
      half.getContext("2d").drawImage(canvas, x, y, size, size, 0, 0, half.width, half.height);
      [canvas, x, y, size] = [half, 0, 0, half.width];
    }
    const small = document.createElement("canvas");
    small.width = small.height = SIDE;
    const context = small.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(canvas, x, y, size, size, 0, 0, SIDE, SIDE);
    return { small, data: context.getImageData(0, 0, SIDE, SIDE).data };
  }

  function move(dx, dy) {
    square.x = Math.min(Math.max(0, square.x + dx), photo.width - square.size);
    square.y = Math.min(Math.max(0, square.y + dy), photo.height - square.size);
  }

  function resize(share) {
    const size = Math.max(1, (Math.min(photo.width, photo.height) * share) / 100);
    const more = size - square.size;
    square.size = size;
    move(-more / 2, -more / 2);
  }

  // --- Looking -----------------------------------------------------------------------------------------------------

  function change(number, mask) {
    const { tf } = live;
    const how = find(`mask-${number + 1}`).value;
    if (how === "zero") return tf.zerosLike(mask);
    if (how === "half") return tf.fill(mask.shape, 0.5);
    if (how === "other" && others) return others[number];
    return mask;
  }

  // One look at a time: what changes meanwhile is looked at once, after it.
  let looking = null;
  let changed = false;
  async function look() {
    changed = true;
    looking ??= (async () => {
      while (changed) {
        changed = false;
        await lookOnce();
      }
    })().finally(() => (looking = null));
    await looking;
  }

  async function lookOnce() {
    const { tf, weights, predict } = live;
    live.masks = null;
    const { small, data } = pixels();
    const values = new Float32Array(SIDE * SIDE * 3);
    for (let place = 0; place < SIDE * SIDE; place++) {
      for (let colour = 0; colour < 3; colour++) {
        values[3 * place + colour] = (data[4 * place + colour] - weights.mean[colour]) / weights.std[colour];
      }
    }
    const images = tf.tensor(values, [1, SIDE, SIDE, 3]);
    const { logits, masks } = predict(images, change, find("naive").checked);
    const shares = tf.softmax(logits);
    answer([...(await shares.data())]);
    drawPhoto();
    for (let number = 0; number < masks.length; number++) await drawMask(number, masks[number], small);
    live.masks = masks.map((mask) => mask.arraySync());
    tf.dispose([images, logits, shares, ...masks.filter((mask) => !others || !others.includes(mask))]);
  }

  function answer(probabilities) {
    const order = probabilities.map((value, index) => [value, live.weights.classes[index]]).sort((a, b) => b[0] - a[0]);
    find("answers").replaceChildren(
      ...order.slice(0, 3).map(([value, name]) => {
        const row = document.createElement("li");
        const bar = document.createElement("meter");
        bar.value = value;
        bar.setAttribute("aria-hidden", "true");
        row.append(`${name} ${(100 * value).toFixed(1)}% `, bar);
        return row;
      }),
    );
    const [value, name] = order[0];
    say(`The network answers ${name}, with a probability of ${(100 * value).toFixed(0)}%.`);
  }

  function drawPhoto() {
    const canvas = find("photo");
    canvas.width = photo.width;
    canvas.height = photo.height;
    canvas.style.width = `${Math.min(13, (26 * photo.width) / photo.height)}rem`;
    // A finger moves the square where there is room for it, and scrolls the page elsewhere.
    const [across, down] = [square.size < photo.width, square.size < photo.height];
    canvas.style.touchAction = across && down ? "none" : across ? "pan-y" : down ? "pan-x" : "auto";
    const context = canvas.getContext("2d");
    context.drawImage(photo, 0, 0);
    context.lineWidth = Math.max(2, photo.width / 120);
    for (const [style, dash] of [["white", []], ["#c25039", [context.lineWidth * 3]]]) {
      context.strokeStyle = style;
      context.setLineDash(dash);
      context.strokeRect(square.x, square.y, square.size, square.size);
    }
  }

  async function drawMask(number, mask, small) {
    const { tf } = live;
    const asked = find("channel").value === "" ? -1 : Math.trunc(find("channel").valueAsNumber);
    const channel = asked < 0 ? -1 : asked % mask.shape[3]; // the modules have different numbers of channels
    const seen = tf.tidy(() =>
      channel < 0 ? tf.mean(mask, 3) : tf.slice(mask, [0, 0, 0, channel], [1, -1, -1, 1]));
    const values = await seen.data();
    const side = mask.shape[1];
    seen.dispose();
    const low = values.reduce((a, b) => Math.min(a, b));
    const high = values.reduce((a, b) => Math.max(a, b));
    const map = document.createElement("canvas");
    map.width = map.height = side;
    const context = map.getContext("2d");
    const colours = context.createImageData(side, side);
    values.forEach((value, place) => {
      const share = high > low ? (value - low) / (high - low) : 0.5;
      colours.data.set([...viridis(share), 255], 4 * place);
    });
    context.putImageData(colours, 0, 0);
    const canvas = find(`picture-${number + 1}`);
    canvas.width = canvas.height = 8 * SIDE;
    const onto = canvas.getContext("2d");
    onto.imageSmoothingEnabled = false;
    onto.drawImage(small, 0, 0, canvas.width, canvas.height);
    onto.globalCompositeOperation = "saturation"; // of grey: Safari knows no filters
    onto.fillStyle = "gray";
    onto.fillRect(0, 0, canvas.width, canvas.height);
    onto.globalCompositeOperation = "source-over";
    onto.globalAlpha = 0.65;
    onto.imageSmoothingEnabled = true;
    onto.drawImage(map, 0, 0, canvas.width, canvas.height);
    onto.globalAlpha = 1;
    const which = channel < 0 ? "" : `, channel ${channel}`;
    const text = `Mask of module ${number + 1}${which}: from ${low.toFixed(2)} to ${high.toFixed(2)}`;
    canvas.setAttribute("aria-label", text);
    find(`scale-${number + 1}`).textContent = text;
  }

  const VIRIDIS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  function viridis(share) {
    const at = Math.min(share * 4, 3.999);
    const [from, to] = [VIRIDIS[Math.floor(at)], VIRIDIS[Math.floor(at) + 1]];
    return from.map((value, colour) => Math.round(value + (at % 1) * (to[colour] - value)));
  }

  // --- Events ------------------------------------------------------------------------------------------------------

  find("elsewhere").hidden = true;
  find("start").hidden = false;
  const failed = (error) => {
    say("");
    complain(`This browser could not look at the picture (${error.message}).`);
  };
  const again = async () => {
    if (!live || !photo) return;
    complain("");
    await look().catch(failed);
  };
  find("load").addEventListener("click", load);
  for (const name of ["file", "camera"]) {
    find(name).addEventListener("change", async (event) => {
      await read(event.target.files[0]);
      event.target.value = ""; // so that the same picture can be chosen again
    });
  }
  root.querySelectorAll("[data-picture]").forEach((button) =>
    button.addEventListener("click", () => choose(button).catch(failed)));
  // Anywhere on the page: a picture dropped beside the section would take the page's place.
  const isPicture = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => isPicture(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!isPicture(event)) return;
    event.preventDefault();
    read(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const item = [...event.clipboardData.items].find((each) => each.kind === "file");
    if (item) read(item.getAsFile());
  });
  find("keep").addEventListener("click", async () => {
    await looking?.catch(() => {});
    const { tf } = live;
    if (!live.masks) return;
    if (others) tf.dispose(others);
    others = live.masks.map((mask) => tf.tensor(mask));
    root.querySelectorAll('option[value="other"]').forEach((option) => (option.disabled = false));
    say("These masks are kept. Choose another picture, and give it these.");
  });
  find("size").addEventListener("input", (event) => {
    resize(event.target.valueAsNumber);
    again();
  });
  for (const name of ["mask-1", "mask-2", "mask-3", "naive", "channel"]) find(name).addEventListener("change", again);
  const canvas = find("photo");
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button) return; // a second finger, or another button of the mouse
    held = [event.clientX, event.clientY];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!held) return;
    const scale = photo.width / canvas.getBoundingClientRect().width;
    move((event.clientX - held[0]) * scale, (event.clientY - held[1]) * scale);
    held = [event.clientX, event.clientY];
    drawPhoto();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, () => {
      held = null;
      again();
    });
  }
  canvas.addEventListener("keydown", (event) => {
    const step = Math.max(1, photo.width / 50);
    const to = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (!to) return;
    event.preventDefault();
    move(...to);
    again();
  });
})();
