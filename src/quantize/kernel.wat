;; Counts tensors into dyadic histograms, and gathers channels' ranges and exact sums: the fast form of `Observer` in histogram.ts, which it
;; equals bit for bit. `npm run build:kernel` assembles it into kernel.ts.
;;
;; Memory. 0: four histograms of 16-bit counts for the elements at hand, one per SIMD lane, so that equal neighbours do not wait for each
;; other, and small enough together for the first cache; 8256 bytes each: 4096 bins, the bin of what does not fit, then bins that zeros fall
;; into by turns (half of what a ReLU leaves) and that nobody reads, which also keep equal bins of two lanes out of one cache set.
;; 65792: a piece's minima, 65808: its maxima. The caller places everything else at 66048 or above, aligned to 64 bytes.
;;
;; State of one tensor, 32832 bytes: i32 exponent e, f32 2^-e, f32 min, f32 max, f64 finite elements, f64 zeros, f64 non-finite elements,
;; f32 4096 * 2^e; at 64 the 4096 counts as f64.
(module
  (import "env" "memory" (memory 2))

  ;; Makes a state that has seen nothing.
  (func (export "reset") (param $state i32)
    (memory.fill (local.get $state) (i32.const 0) (i32.const 32832))
    (call $setExponent (local.get $state) (i32.const -126))
    (f32.store offset=8 (local.get $state) (f32.const inf))
    (f32.store offset=12 (local.get $state) (f32.const -inf)))

  (func $setExponent (param $state i32) (param $e i32)
    (i32.store (local.get $state) (local.get $e))
    (i32.store offset=4 (local.get $state) (i32.shl (i32.sub (i32.const 127) (local.get $e)) (i32.const 23)))
    ;; 2^(e + 12); with the largest e, 116, these are the bits of infinity.
    (i32.store offset=40 (local.get $state) (i32.shl (i32.add (i32.const 139) (local.get $e)) (i32.const 23))))

  ;; Adds n float32 at `at` (aligned to 4 bytes).
  (func (export "count") (param $at i32) (param $n i32) (param $state i32)
    (local $end i32) (local $piece i32) (local $pieces i32)
    (local.set $end (i32.add (local.get $at) (i32.shl (i32.and (local.get $n) (i32.const -16)) (i32.const 2))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        ;; Pieces of 16 KiB stay in the first cache when something in them has to be looked at again.
        (local.set $piece (i32.add (local.get $at) (i32.const 16384)))
        (if (i32.gt_u (local.get $piece) (local.get $end)) (then (local.set $piece (local.get $end))))
        (call $piece (local.get $at) (local.get $piece) (local.get $state))
        (local.set $at (local.get $piece))
        (if (i32.eq (local.tee $pieces (i32.add (local.get $pieces) (i32.const 1))) (i32.const 63))
          (then
            (call $flush (local.get $state))
            (local.set $pieces (i32.const 0))))
        (br $next)))
    (call $scalar (local.get $at) (i32.add (local.get $at) (i32.shl (i32.and (local.get $n) (i32.const 15)) (i32.const 2)))
      (local.get $state) (f32.const 0))
    (call $flush (local.get $state)))

  ;; A piece whose length is a multiple of 16 elements and not 0: four times the same, but for the bin that zeros fall into.
  (func $piece (param $at i32) (param $end i32) (param $state i32)
    (local $start i32) (local $x v128) (local $min v128) (local $max v128) (local $zeros v128) (local $scale v128) (local $pair i64)
    (local $mask v128) (local $b i32) (local $none f64)
    (local.set $start (local.get $at))
    (local.set $scale (v128.load32_splat offset=4 (local.get $state)))
    (local.set $min (f32x4.splat (f32.const inf)))
    (local.set $max (f32x4.splat (f32.const -inf)))
    (loop $next
      (local.set $x (v128.load (local.get $at)))
      ;; pmin(a, b) is b < a ? b : a: a NaN in b is passed over.
      (local.set $min (f32x4.pmin (local.get $min) (local.get $x)))
      (local.set $max (f32x4.pmax (local.get $max) (local.get $x)))
      (local.set $mask (f32x4.eq (local.get $x) (v128.const f32x4 0 0 0 0)))
      (local.set $zeros (i32x4.sub (local.get $zeros) (local.get $mask)))
      ;; Twice the bin: floor(|x| 2^-e), or 4096 where that is more or NaN, plus 2^22, whose last bit is worth 1/2.
      (local.set $x
        (i32x4.sub
          (f32x4.add
            (f32x4.pmin
              (v128.const f32x4 4096 4096 4096 4096)
              (f32x4.floor (f32x4.mul (f32x4.abs (local.get $x)) (local.get $scale))))
            (v128.const f32x4 4194304 4194304 4194304 4194304))
          (v128.const f32x4 4194304 4194304 4194304 4194304)))
      (local.set $x (v128.or (local.get $x) (v128.and (local.get $mask) (v128.const i32x4 8194 8194 8194 8194))))
      (local.set $pair (i64x2.extract_lane 0 (local.get $x)))
      (local.set $b (i32.wrap_i64 (local.get $pair)))
      (i32.store16 (local.get $b) (i32.add (i32.load16_u (local.get $b)) (i32.const 1)))
      (local.set $b (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))))
      (i32.store16 offset=8256 (local.get $b) (i32.add (i32.load16_u offset=8256 (local.get $b)) (i32.const 1)))
      (local.set $pair (i64x2.extract_lane 1 (local.get $x)))
      (local.set $b (i32.wrap_i64 (local.get $pair)))
      (i32.store16 offset=16512 (local.get $b) (i32.add (i32.load16_u offset=16512 (local.get $b)) (i32.const 1)))
      (local.set $b (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))))
      (i32.store16 offset=24768 (local.get $b) (i32.add (i32.load16_u offset=24768 (local.get $b)) (i32.const 1)))
      (local.set $x (v128.load offset=16 (local.get $at)))
      (local.set $min (f32x4.pmin (local.get $min) (local.get $x)))
      (local.set $max (f32x4.pmax (local.get $max) (local.get $x)))
      (local.set $mask (f32x4.eq (local.get $x) (v128.const f32x4 0 0 0 0)))
      (local.set $zeros (i32x4.sub (local.get $zeros) (local.get $mask)))
      (local.set $x
        (i32x4.sub
          (f32x4.add
            (f32x4.pmin
              (v128.const f32x4 4096 4096 4096 4096)
              (f32x4.floor (f32x4.mul (f32x4.abs (local.get $x)) (local.get $scale))))
            (v128.const f32x4 4194304 4194304 4194304 4194304))
          (v128.const f32x4 4194304 4194304 4194304 4194304)))
      (local.set $x (v128.or (local.get $x) (v128.and (local.get $mask) (v128.const i32x4 8196 8196 8196 8196))))
      (local.set $pair (i64x2.extract_lane 0 (local.get $x)))
      (local.set $b (i32.wrap_i64 (local.get $pair)))
      (i32.store16 (local.get $b) (i32.add (i32.load16_u (local.get $b)) (i32.const 1)))
      (local.set $b (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))))
      (i32.store16 offset=8256 (local.get $b) (i32.add (i32.load16_u offset=8256 (local.get $b)) (i32.const 1)))
      (local.set $pair (i64x2.extract_lane 1 (local.get $x)))
      (local.set $b (i32.wrap_i64 (local.get $pair)))
      (i32.store16 offset=16512 (local.get $b) (i32.add (i32.load16_u offset=16512 (local.get $b)) (i32.const 1)))
      (local.set $b (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))))
      (i32.store16 offset=24768 (local.get $b) (i32.add (i32.load16_u offset=24768 (local.get $b)) (i32.const 1)))
      (local.set $x (v128.load offset=32 (local.get $at)))
      (local.set $min (f32x4.pmin (local.get $min) (local.get $x)))
      (local.set $max (f32x4.pmax (local.get $max) (local.get $x)))
      (local.set $mask (f32x4.eq (local.get $x) (v128.const f32x4 0 0 0 0)))
      (local.set $zeros (i32x4.sub (local.get $zeros) (local.get $mask)))
      (local.set $x
        (i32x4.sub
          (f32x4.add
            (f32x4.pmin
              (v128.const f32x4 4096 4096 4096 4096)
              (f32x4.floor (f32x4.mul (f32x4.abs (local.get $x)) (local.get $scale))))
            (v128.const f32x4 4194304 4194304 4194304 4194304))
          (v128.const f32x4 4194304 4194304 4194304 4194304)))
      (local.set $x (v128.or (local.get $x) (v128.and (local.get $mask) (v128.const i32x4 8198 8198 8198 8198))))
      (local.set $pair (i64x2.extract_lane 0 (local.get $x)))
      (local.set $b (i32.wrap_i64 (local.get $pair)))
      (i32.store16 (local.get $b) (i32.add (i32.load16_u (local.get $b)) (i32.const 1)))
      (local.set $b (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))))
      (i32.store16 offset=8256 (local.get $b) (i32.add (i32.load16_u offset=8256 (local.get $b)) (i32.const 1)))
      (local.set $pair (i64x2.extract_lane 1 (local.get $x)))
      (local.set $b (i32.wrap_i64 (local.get $pair)))
      (i32.store16 offset=16512 (local.get $b) (i32.add (i32.load16_u offset=16512 (local.get $b)) (i32.const 1)))
      (local.set $b (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))))
      (i32.store16 offset=24768 (local.get $b) (i32.add (i32.load16_u offset=24768 (local.get $b)) (i32.const 1)))
      (local.set $x (v128.load offset=48 (local.get $at)))
      (local.set $min (f32x4.pmin (local.get $min) (local.get $x)))
      (local.set $max (f32x4.pmax (local.get $max) (local.get $x)))
      (local.set $mask (f32x4.eq (local.get $x) (v128.const f32x4 0 0 0 0)))
      (local.set $zeros (i32x4.sub (local.get $zeros) (local.get $mask)))
      (local.set $x
        (i32x4.sub
          (f32x4.add
            (f32x4.pmin
              (v128.const f32x4 4096 4096 4096 4096)
              (f32x4.floor (f32x4.mul (f32x4.abs (local.get $x)) (local.get $scale))))
            (v128.const f32x4 4194304 4194304 4194304 4194304))
          (v128.const f32x4 4194304 4194304 4194304 4194304)))
      (local.set $x (v128.or (local.get $x) (v128.and (local.get $mask) (v128.const i32x4 8200 8200 8200 8200))))
      (local.set $pair (i64x2.extract_lane 0 (local.get $x)))
      (local.set $b (i32.wrap_i64 (local.get $pair)))
      (i32.store16 (local.get $b) (i32.add (i32.load16_u (local.get $b)) (i32.const 1)))
      (local.set $b (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))))
      (i32.store16 offset=8256 (local.get $b) (i32.add (i32.load16_u offset=8256 (local.get $b)) (i32.const 1)))
      (local.set $pair (i64x2.extract_lane 1 (local.get $x)))
      (local.set $b (i32.wrap_i64 (local.get $pair)))
      (i32.store16 offset=16512 (local.get $b) (i32.add (i32.load16_u offset=16512 (local.get $b)) (i32.const 1)))
      (local.set $b (i32.wrap_i64 (i64.shr_u (local.get $pair) (i64.const 32))))
      (i32.store16 offset=24768 (local.get $b) (i32.add (i32.load16_u offset=24768 (local.get $b)) (i32.const 1)))
      (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 64))) (local.get $end))))
    ;; Zeros belong into bin 0 of every histogram.
    (local.set $none
      (f64.convert_i32_u
        (i32.add
          (i32.add (i32x4.extract_lane 0 (local.get $zeros)) (i32x4.extract_lane 1 (local.get $zeros)))
          (i32.add (i32x4.extract_lane 2 (local.get $zeros)) (i32x4.extract_lane 3 (local.get $zeros))))))
    (f64.store offset=64 (local.get $state) (f64.add (f64.load offset=64 (local.get $state)) (local.get $none)))
    (if (i32.or
          (i32.or (i32.load16_u offset=8192 (i32.const 0)) (i32.load16_u offset=16448 (i32.const 0)))
          (i32.or (i32.load16_u offset=24704 (i32.const 0)) (i32.load16_u offset=32960 (i32.const 0))))
      (then
        ;; Something is out of range or not finite: those elements again, one by one, and everybody's minimum and maximum.
        (i32.store16 offset=8192 (i32.const 0) (i32.const 0))
        (i32.store16 offset=16448 (i32.const 0) (i32.const 0))
        (i32.store16 offset=24704 (i32.const 0) (i32.const 0))
        (i32.store16 offset=32960 (i32.const 0) (i32.const 0))
        (call $scalar (local.get $start) (local.get $end) (local.get $state) (f32.load offset=40 (local.get $state))))
      (else
        (v128.store offset=65792 (i32.const 0) (local.get $min))
        (v128.store offset=65808 (i32.const 0) (local.get $max))
        (f32.store offset=8 (local.get $state)
          (f32.min (f32.load offset=8 (local.get $state))
            (f32.min (f32.min (f32.load offset=65792 (i32.const 0)) (f32.load offset=65796 (i32.const 0)))
                     (f32.min (f32.load offset=65800 (i32.const 0)) (f32.load offset=65804 (i32.const 0))))))
        (f32.store offset=12 (local.get $state)
          (f32.max (f32.load offset=12 (local.get $state))
            (f32.max (f32.max (f32.load offset=65808 (i32.const 0)) (f32.load offset=65812 (i32.const 0)))
                     (f32.max (f32.load offset=65816 (i32.const 0)) (f32.load offset=65820 (i32.const 0))))))
        (f64.store offset=16 (local.get $state)
          (f64.add (f64.load offset=16 (local.get $state))
            (f64.convert_i32_u (i32.shr_u (i32.sub (local.get $end) (local.get $start)) (i32.const 2)))))
        (f64.store offset=24 (local.get $state)
          (f64.add (f64.load offset=24 (local.get $state))
            (local.get $none))))))

  ;; Every figure of the elements, but only those of at least `least` are counted into bins. Widens the histogram first where needed.
  (func $scalar (param $start i32) (param $end i32) (param $state i32) (param $least f32)
    (local $at i32) (local $x f32) (local $min f32) (local $max f32) (local $finite i32) (local $zeros i32) (local $bin i32) (local $scale f32)
    (local.set $min (f32.load offset=8 (local.get $state)))
    (local.set $max (f32.load offset=12 (local.get $state)))
    (local.set $at (local.get $start))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $x (f32.load (local.get $at)))
        (if (f32.lt (f32.abs (local.get $x)) (f32.const inf))
          (then
            (local.set $finite (i32.add (local.get $finite) (i32.const 1)))
            (local.set $zeros (i32.add (local.get $zeros) (f32.eq (local.get $x) (f32.const 0))))
            (local.set $min (f32.min (local.get $min) (local.get $x)))
            (local.set $max (f32.max (local.get $max) (local.get $x)))))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (br $next)))
    (f64.store offset=16 (local.get $state) (f64.add (f64.load offset=16 (local.get $state)) (f64.convert_i32_u (local.get $finite))))
    (f64.store offset=24 (local.get $state) (f64.add (f64.load offset=24 (local.get $state)) (f64.convert_i32_u (local.get $zeros))))
    (f64.store offset=32 (local.get $state)
      (f64.add (f64.load offset=32 (local.get $state))
        (f64.convert_i32_u
          (i32.sub (i32.shr_u (i32.sub (local.get $end) (local.get $start)) (i32.const 2)) (local.get $finite)))))
    (if (i32.eqz (local.get $finite)) (then (return)))
    (f32.store offset=8 (local.get $state) (local.get $min))
    (f32.store offset=12 (local.get $state) (local.get $max))
    (call $widen (local.get $state) (f32.max (f32.abs (local.get $min)) (f32.abs (local.get $max))))
    (local.set $scale (f32.load offset=4 (local.get $state)))
    (local.set $at (local.get $start))
    (loop $next
      (local.set $x (f32.abs (f32.load (local.get $at))))
      (if (i32.and (f32.ge (local.get $x) (local.get $least)) (f32.lt (local.get $x) (f32.const inf)))
        (then
          (local.set $bin
            (i32.add (local.get $state)
              (i32.shl (i32.trunc_f32_u (f32.mul (local.get $x) (local.get $scale))) (i32.const 3))))
          (f64.store offset=64 (local.get $bin) (f64.add (f64.load offset=64 (local.get $bin)) (f64.const 1)))))
      (br_if $next (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4))) (local.get $end)))))

  ;; Folds pairs of bins until `absmax` fits.
  (func $widen (param $state i32) (param $absmax f32)
    (local $e i32) (local $shift i32) (local $b i32) (local $from i32) (local $to i32) (local $n f64)
    (if (f32.lt (local.get $absmax) (f32.load offset=40 (local.get $state))) (then (return)))
    (call $flush (local.get $state))
    ;; floor(log2 absmax) + 1 - 12; it lies above the state's, so above the least.
    (local.set $e (i32.sub (i32.shr_u (i32.reinterpret_f32 (local.get $absmax)) (i32.const 23)) (i32.const 138)))
    (local.set $shift (i32.sub (local.get $e) (i32.load (local.get $state))))
    (if (i32.gt_u (local.get $shift) (i32.const 12)) (then (local.set $shift (i32.const 12))))
    (call $setExponent (local.get $state) (local.get $e))
    (loop $next
      (local.set $from (i32.add (local.get $state) (i32.shl (local.get $b) (i32.const 3))))
      (local.set $to (i32.add (local.get $state) (i32.shl (i32.shr_u (local.get $b) (local.get $shift)) (i32.const 3))))
      (local.set $n (f64.load offset=64 (local.get $from)))
      (f64.store offset=64 (local.get $from) (f64.const 0))
      (f64.store offset=64 (local.get $to) (f64.add (f64.load offset=64 (local.get $to)) (local.get $n)))
      (br_if $next (i32.lt_u (local.tee $b (i32.add (local.get $b) (i32.const 1))) (i32.const 4096)))))

  ;; Moves the counts of the four lanes into the state. Zeros of pieces are in none of them.
  (func $flush (param $state i32)
    (local $b i32) (local $a v128) (local $c v128) (local $d v128) (local $e v128) (local $n v128) (local $to i32) (local $half i32)
    (local.set $to (local.get $state))
    (loop $next
      (local.set $a (v128.load (local.get $b)))
      (local.set $c (v128.load offset=8256 (local.get $b)))
      (local.set $d (v128.load offset=16512 (local.get $b)))
      (local.set $e (v128.load offset=24768 (local.get $b)))
      (if (v128.any_true (v128.or (v128.or (local.get $a) (local.get $c)) (v128.or (local.get $d) (local.get $e))))
        (then
          (v128.store (local.get $b) (v128.const i32x4 0 0 0 0))
          (v128.store offset=8256 (local.get $b) (v128.const i32x4 0 0 0 0))
          (v128.store offset=16512 (local.get $b) (v128.const i32x4 0 0 0 0))
          (v128.store offset=24768 (local.get $b) (v128.const i32x4 0 0 0 0))
          (local.set $n (i32x4.add
            (i32x4.add (i32x4.extend_low_i16x8_u (local.get $a)) (i32x4.extend_low_i16x8_u (local.get $c)))
            (i32x4.add (i32x4.extend_low_i16x8_u (local.get $d)) (i32x4.extend_low_i16x8_u (local.get $e)))))
          (v128.store offset=64 (local.get $to)
            (f64x2.add (v128.load offset=64 (local.get $to)) (f64x2.convert_low_i32x4_u (local.get $n))))
          (v128.store offset=80 (local.get $to)
            (f64x2.add (v128.load offset=80 (local.get $to))
              (f64x2.convert_low_i32x4_u (i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15 (local.get $n) (local.get $n)))))
          (local.set $n (i32x4.add
            (i32x4.add (i32x4.extend_high_i16x8_u (local.get $a)) (i32x4.extend_high_i16x8_u (local.get $c)))
            (i32x4.add (i32x4.extend_high_i16x8_u (local.get $d)) (i32x4.extend_high_i16x8_u (local.get $e)))))
          (v128.store offset=96 (local.get $to)
            (f64x2.add (v128.load offset=96 (local.get $to)) (f64x2.convert_low_i32x4_u (local.get $n))))
          (v128.store offset=112 (local.get $to)
            (f64x2.add (v128.load offset=112 (local.get $to))
              (f64x2.convert_low_i32x4_u (i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15 (local.get $n) (local.get $n)))))))
      (local.set $to (i32.add (local.get $to) (i32.const 64)))
      (br_if $next (i32.lt_u (local.tee $b (i32.add (local.get $b) (i32.const 16))) (i32.const 8192)))))

  ;; Channels. 32 bytes each: f32 absmax, 4 unused, f64 high, f64 low, f64 finite elements. The sum is 2^16 high + low, high a whole number,
  ;; low in [0, 2^16) a multiple of 2^-36. Elements are rounded to such multiples first (those of 256 and more are some already) by adding and
  ;; subtracting 3 * 2^15, whose last bit is worth 2^-36; up to 256 of them, below 2^16 in sum, then add exactly in f64.

  ;; A tensor [outer, channels, inner] at `at`.
  (func (export "channels") (param $at i32) (param $outer i32) (param $channels i32) (param $inner i32) (param $state i32)
    (local $c i32) (local $rows i32)
    (if (i32.eqz (i32.mul (local.get $channels) (local.get $inner))) (then (return)))
    (if (i32.eq (local.get $inner) (i32.const 1))
      (then
        (block $done
          (loop $next
            (br_if $done (i32.eqz (local.get $outer)))
            (local.set $rows (select (i32.const 64) (local.get $outer) (i32.gt_u (local.get $outer) (i32.const 64))))
            (call $columns (local.get $at) (local.get $rows) (local.get $channels) (local.get $state))
            (local.set $at (i32.add (local.get $at) (i32.shl (i32.mul (local.get $rows) (local.get $channels)) (i32.const 2))))
            (local.set $outer (i32.sub (local.get $outer) (local.get $rows)))
            (br $next)))
        (return)))
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $outer)))
        (local.set $c (i32.const 0))
        (loop $channel
          (call $row (local.get $at) (local.get $inner) (i32.add (local.get $state) (i32.shl (local.get $c) (i32.const 5))))
          (local.set $at (i32.add (local.get $at) (i32.shl (local.get $inner) (i32.const 2))))
          (br_if $channel (i32.lt_u (local.tee $c (i32.add (local.get $c) (i32.const 1))) (local.get $channels))))
        (local.set $outer (i32.sub (local.get $outer) (i32.const 1)))
        (br $next))))

  ;; n neighbours of one channel.
  (func $row (param $at i32) (param $n i32) (param $channel i32)
    (local $end i32) (local $piece i32) (local $from i32) (local $x v128) (local $most v128) (local $low v128) (local $high v128)
    (local.set $end (i32.add (local.get $at) (i32.shl (i32.and (local.get $n) (i32.const -4)) (i32.const 2))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $from (local.get $at))
        (local.set $piece (i32.add (local.get $at) (i32.const 1024)))
        (if (i32.gt_u (local.get $piece) (local.get $end)) (then (local.set $piece (local.get $end))))
        (local.set $most (v128.const i32x4 0 0 0 0))
        (local.set $low (v128.const f64x2 0 0))
        (local.set $high (v128.const f64x2 0 0))
        (loop $four
          (local.set $x (v128.load (local.get $at)))
          (local.set $low (f64x2.add (local.get $low)
            (f64x2.sub
              (f64x2.add (f64x2.promote_low_f32x4 (local.get $x)) (v128.const f64x2 98304 98304))
              (v128.const f64x2 98304 98304))))
          (local.set $high (f64x2.add (local.get $high)
            (f64x2.sub
              (f64x2.add
                (f64x2.promote_low_f32x4 (i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15 (local.get $x) (local.get $x)))
                (v128.const f64x2 98304 98304))
              (v128.const f64x2 98304 98304))))
          (local.set $most (i32x4.max_s (local.get $most) (f32x4.abs (local.get $x))))
          (br_if $four (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 16))) (local.get $piece))))
        (if (call $small (local.get $most))
          (then
            (local.set $low (f64x2.add (local.get $low) (local.get $high)))
            (local.set $most (i32x4.max_s (local.get $most)
              (i8x16.shuffle 8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7 (local.get $most) (local.get $most))))
            (call $add (local.get $channel)
              (f32.max (f32x4.extract_lane 0 (local.get $most)) (f32x4.extract_lane 1 (local.get $most)))
              (f64.add (f64x2.extract_lane 0 (local.get $low)) (f64x2.extract_lane 1 (local.get $low)))
              (f64.convert_i32_u (i32.shr_u (i32.sub (local.get $at) (local.get $from)) (i32.const 2)))))
          (else
            (local.set $at (local.get $from))
            (loop $one
              (call $one (local.get $channel) (f32.load (local.get $at)))
              (br_if $one (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4))) (local.get $piece))))))
        (br $next)))
    (local.set $end (i32.add (local.get $at) (i32.shl (i32.and (local.get $n) (i32.const 3)) (i32.const 2))))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (call $one (local.get $channel) (f32.load (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (br $next))))

  ;; At most 64 rows of one element a channel: four channels at a time down the rows.
  (func $columns (param $at i32) (param $rows i32) (param $channels i32) (param $channel i32)
    (local $c i32) (local $r i32) (local $p i32) (local $x v128) (local $most v128) (local $low v128) (local $high v128) (local $count f64)
    (local.set $count (f64.convert_i32_u (local.get $rows)))
    (block $done
      (loop $next
        (br_if $done (i32.gt_u (i32.add (local.get $c) (i32.const 4)) (local.get $channels)))
        (local.set $most (v128.const i32x4 0 0 0 0))
        (local.set $low (v128.const f64x2 0 0))
        (local.set $high (v128.const f64x2 0 0))
        (local.set $p (i32.add (local.get $at) (i32.shl (local.get $c) (i32.const 2))))
        (local.set $r (local.get $rows))
        (loop $row
          (local.set $x (v128.load (local.get $p)))
          (local.set $low (f64x2.add (local.get $low)
            (f64x2.sub
              (f64x2.add (f64x2.promote_low_f32x4 (local.get $x)) (v128.const f64x2 98304 98304))
              (v128.const f64x2 98304 98304))))
          (local.set $high (f64x2.add (local.get $high)
            (f64x2.sub
              (f64x2.add
                (f64x2.promote_low_f32x4 (i8x16.shuffle 8 9 10 11 12 13 14 15 8 9 10 11 12 13 14 15 (local.get $x) (local.get $x)))
                (v128.const f64x2 98304 98304))
              (v128.const f64x2 98304 98304))))
          (local.set $most (i32x4.max_s (local.get $most) (f32x4.abs (local.get $x))))
          (local.set $p (i32.add (local.get $p) (i32.shl (local.get $channels) (i32.const 2))))
          (br_if $row (local.tee $r (i32.sub (local.get $r) (i32.const 1)))))
        (if (call $small (local.get $most))
          (then
            (call $add (local.get $channel) (f32x4.extract_lane 0 (local.get $most)) (f64x2.extract_lane 0 (local.get $low)) (local.get $count))
            (call $add (i32.add (local.get $channel) (i32.const 32))
              (f32x4.extract_lane 1 (local.get $most)) (f64x2.extract_lane 1 (local.get $low)) (local.get $count))
            (call $add (i32.add (local.get $channel) (i32.const 64))
              (f32x4.extract_lane 2 (local.get $most)) (f64x2.extract_lane 0 (local.get $high)) (local.get $count))
            (call $add (i32.add (local.get $channel) (i32.const 96))
              (f32x4.extract_lane 3 (local.get $most)) (f64x2.extract_lane 1 (local.get $high)) (local.get $count))
            (local.set $c (i32.add (local.get $c) (i32.const 4)))
            (local.set $channel (i32.add (local.get $channel) (i32.const 128))))
          (else
            (local.set $r (i32.add (local.get $c) (i32.const 4)))
            (loop $one
              (call $column (local.get $at) (local.get $rows) (local.get $channels) (local.get $c) (local.get $channel))
              (local.set $channel (i32.add (local.get $channel) (i32.const 32)))
              (br_if $one (i32.lt_u (local.tee $c (i32.add (local.get $c) (i32.const 1))) (local.get $r))))))
        (br $next)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $c) (local.get $channels)))
        (call $column (local.get $at) (local.get $rows) (local.get $channels) (local.get $c) (local.get $channel))
        (local.set $channel (i32.add (local.get $channel) (i32.const 32)))
        (local.set $c (i32.add (local.get $c) (i32.const 1)))
        (br $next))))

  ;; Column c of the rows, one by one.
  (func $column (param $at i32) (param $rows i32) (param $channels i32) (param $c i32) (param $channel i32)
    (local.set $at (i32.add (local.get $at) (i32.shl (local.get $c) (i32.const 2))))
    (loop $next
      (call $one (local.get $channel) (f32.load (local.get $at)))
      (local.set $at (i32.add (local.get $at) (i32.shl (local.get $channels) (i32.const 2))))
      (br_if $next (local.tee $rows (i32.sub (local.get $rows) (i32.const 1))))))

  ;; Whether all of these magnitudes, compared as integers, lie below 256; NaN and infinities lie above.
  (func $small (param $most v128) (result i32)
    (i32x4.all_true (i32x4.lt_s (local.get $most) (v128.const f32x4 256 256 256 256))))

  (func $add (param $channel i32) (param $absmax f32) (param $sum f64) (param $count f64)
    (local $carry f64)
    (f32.store (local.get $channel) (f32.max (f32.load (local.get $channel)) (local.get $absmax)))
    (local.set $sum (f64.add (local.get $sum) (f64.load offset=16 (local.get $channel))))
    (local.set $carry (f64.floor (f64.mul (local.get $sum) (f64.const 0x1p-16))))
    (f64.store offset=8 (local.get $channel) (f64.add (f64.load offset=8 (local.get $channel)) (local.get $carry)))
    (f64.store offset=16 (local.get $channel) (f64.sub (local.get $sum) (f64.mul (local.get $carry) (f64.const 0x1p16))))
    (f64.store offset=24 (local.get $channel) (f64.add (f64.load offset=24 (local.get $channel)) (local.get $count))))

  ;; One element: what is not finite is passed over, what is beyond 2^48 counts as that in the sum.
  (func $one (param $channel i32) (param $x f32)
    (local $y f64) (local $carry f64)
    (if (i32.eqz (f32.lt (f32.abs (local.get $x)) (f32.const inf))) (then (return)))
    (local.set $y (f64.promote_f32 (local.get $x)))
    (if (f32.lt (f32.abs (local.get $x)) (f32.const 256))
      (then (local.set $y (f64.sub (f64.add (local.get $y) (f64.const 98304)) (f64.const 98304))))
      (else
        (local.set $y (f64.min (f64.max (local.get $y) (f64.const -0x1p48)) (f64.const 0x1p48)))
        (local.set $carry (f64.floor (f64.mul (local.get $y) (f64.const 0x1p-16))))
        (local.set $y (f64.sub (local.get $y) (f64.mul (local.get $carry) (f64.const 0x1p16))))))
    (f64.store offset=8 (local.get $channel) (f64.add (f64.load offset=8 (local.get $channel)) (local.get $carry)))
    (call $add (local.get $channel) (f32.abs (local.get $x)) (local.get $y) (f64.const 1)))
)
