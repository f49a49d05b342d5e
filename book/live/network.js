// Attention-56 in TensorFlow.js: book/one_page/network_keras.py line by line, for prediction.
"use strict";

// Half-precision numbers, two bytes each, as base64: what the weights are kept in.
function halves(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const bits = new Uint16Array(bytes.buffer);
  return Float32Array.from(bits, (half) => {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });
}

// `kept` has, for each kind of layer, its weights in the order in which the listing makes the layers.
function network(tf, kept) {
  const weights = {};
  for (const [kind, layers] of Object.entries(kept.layers)) {
    weights[kind] = layers.map((arrays) => arrays.map(([shape, text]) => tf.tensor(halves(text), shape)));
  }
  let at;
  const next = (kind) => weights[kind][at[kind]++];
  const convolution = (x, strides = 1) => tf.conv2d(x, next("convolution")[0], strides, "same");
  const normalized = (x) => {
    const [gamma, beta, mean, variance] = next("normalization");
    return tf.relu(tf.batchNorm(x, mean, variance, beta, gamma, 1e-5));
  };

  function residualUnit(x, filters, strides = 1) {
    let y = convolution(normalized(x));
    y = convolution(normalized(y), strides);
    y = convolution(normalized(y));
    if (strides > 1 || x.shape[3] !== filters) x = convolution(x, strides);
    return tf.add(y, x);
  }

  function maskBranch(x, depth) {
    const filters = x.shape[3];
    const seen = [];
    for (let level = 0; level < depth; level++) {
      x = residualUnit(tf.maxPool(x, 3, 2, "same"), filters);
      seen.push(x);
    }
    const skips = seen.slice(0, -1).map((features) => residualUnit(features, filters));
    for (let level = 0; level < depth; level++) {
      x = residualUnit(x, filters);
      x = tf.image.resizeBilinear(x, [2 * x.shape[1], 2 * x.shape[2]], false, true);
      if (skips.length) x = tf.add(x, skips.pop());
    }
    x = convolution(normalized(x));
    x = convolution(normalized(x));
    return tf.sigmoid(x);
  }

  // `change` gets a module's number from 0 and its mask, and returns the mask to use. `naive` leaves the 1 of 1 + M out.
  return function predict(images, change = (_, mask) => mask, naive = false) {
    return tf.tidy(() => {
      at = { convolution: 0, normalization: 0, dense: 0 };
      const masks = [];
      let x = convolution(images);
      [[64, 1, 3], [128, 2, 2], [256, 2, 1]].forEach(([filters, strides, depth], number) => {
        x = residualUnit(x, filters, strides);
        x = residualUnit(x, filters);
        const trunk = residualUnit(residualUnit(x, filters), filters);
        const mask = change(number, maskBranch(x, depth));
        masks.push(mask);
        x = tf.mul(mask, trunk);
        if (!naive) x = tf.add(trunk, x);
        x = residualUnit(x, filters);
        x = residualUnit(x, filters);
      });
      const [kernel, bias] = next("dense");
      const logits = tf.add(tf.matMul(tf.mean(normalized(x), [1, 2]), kernel), bias);
      return { logits, masks };
    });
  };
}
