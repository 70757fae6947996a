// What is done to plans that are tried: by a process of its own, which is plain JavaScript, and by tests.

/** Numbers from 0 to n - 1, by xorshift. */
function numbers(state) {
  let x = state >>> 0 || 1;
  return (n) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return (x >>> 0) % n;
  };
}

/** A copy of the bytes, damaged in one of seven ways: the damage of that index in the series that `seed` starts. It may change nothing. */
export function damage(bytes, seed, index) {
  const random = numbers(seed * 7919 + index * 104729 + 1);
  const out = Buffer.from(bytes);
  const at = random(2) === 0 ? random(Math.min(out.length, 256)) : random(out.length);
  switch (index % 7) {
    case 0:
      return out.subarray(0, random(out.length));
    case 1:
      out[at] ^= 1 << random(8);
      return out;
    case 2:
      for (let i = 0, n = 1 + random(64); i < n; i++) out[random(out.length)] = random(256);
      return out;
    case 3:
      return out.fill(random(2) * 255, at, Math.min(out.length, at + 1 + random(4096)));
    case 4:
      return Buffer.concat([out, Buffer.alloc(1 + random(4096), random(256))]);
    case 5:
      if (at + 8 <= out.length) out.writeBigUInt64LE([0xffffffffffffffffn, 1n << 40n, 0x7fffffffn, 0n][random(4)], at);
      return out;
    default: {
      const [a, b, n] = [random(out.length), random(out.length), 1 + random(1024)];
      out.copy(out, a, b, Math.min(out.length, b + n));
      return out;
    }
  }
}
