// Which tile a block computes. Constants: BATCHES, TILES_M, TILES_N, BM, BN, RASTER (rows of tiles walked together, so that a wave of blocks
// shares operands in L2), SPLIT.
struct Place {
  int batch, m, n, index;
};
__device__ __forceinline__ Place place_of(int block) {
  const int batch = BATCHES == 1 ? 0 : block / (TILES_M * TILES_N), t = BATCHES == 1 ? block : block % (TILES_M * TILES_N);
  const int group = t / (RASTER * TILES_N), within = t % (RASTER * TILES_N);
  const int rows = TILES_M % RASTER == 0 || group < TILES_M / RASTER ? RASTER : TILES_M % RASTER;
  return {batch, (group * RASTER + within % rows) * BM, within / rows * BN, block};
}
