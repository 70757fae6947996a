    // Residual chunks are fetched in the order in which they will be finished, the next tile's behind this tile's last.
    int fetch_tile = first, fetch_chunk = 0, fetch_slot = 0;
    const auto fetch = [&] {
      if (lane != 0 || fetch_tile >= TILES) return;
      const Place place = place_of(fetch_tile);
      tile_load(&residual_map, ring + AT_SLOTS + (warp * SLOTS + fetch_slot) * SLOT_BYTES, arrived + (warp * SLOTS + fetch_slot) * 8,
                place.n + fetch_chunk % (BN / CHUNK) * CHUNK, place.m + own_row + fetch_chunk / (BN / CHUNK) * 64);
      if (++fetch_slot == SLOTS) fetch_slot = 0;
      if (++fetch_chunk == ROWS / 64 * (BN / CHUNK)) fetch_chunk = 0, fetch_tile += step;
    };
    if constexpr (RESIDUAL)
      for (int i = 0; i < SLOTS - 1; i++) fetch();
