          // Through a slot of shared memory, where the residual may already lie, and from there by the copy engine.
          if constexpr (RESIDUAL) {
            barrier_wait(arrived + (warp * SLOTS + slot) * 8, slot_parity);
          } else {
            if (lane == 0) tile_stores_read<SLOTS - 1>();
            __syncwarp();
          }
          const int from = AT_SLOTS + (warp * SLOTS + slot) * SLOT_BYTES;
#pragma unroll
          for (int turn = 0; turn < TURNS; turn += AHEAD) {
            Early now[AHEAD];
            if constexpr (!RESIDUAL) {
#pragma unroll
              for (int i = 0; i < AHEAD; i++) now[i] = early[i];
              const bool last = turn + AHEAD == TURNS;
              const int rows = last && c + 1 == BN / CHUNK ? r + 1 : r, columns = last ? (c + 1) % (BN / CHUNK) : c;
              if (rows < ROWS / 64) read_ahead(early, m0 + rows * 64, place.n + columns * CHUNK, place, lane, last ? 0 : turn + AHEAD EPILOGUE_ARGUMENTS);
            }
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
              const int row = turn_row(turn + i, lane), column = turn_column(turn + i, lane), m = m0 + r * 64 + row, n = place.n + c * CHUNK + column;
              if (exists(m, n)) {
                char* const at = shared_bytes + offset + from + slot_place(row, column);
                Acc v[V];
                take(v, d[r], c, turn + i);
                if constexpr (RESIDUAL) read_residual(now[i], at);
                apply(v, now[i], place.batch, m, n EPILOGUE_ARGUMENTS, (Out*)at);
              }
            }
          }
          asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
          __syncwarp();
          if (lane == 0) {
            tile_store(&out_map, ring + from, place.n + c * CHUNK, m0 + r * 64);
            if constexpr (RESIDUAL) tile_stores_read<1>();
          }
          if constexpr (RESIDUAL) fetch();
          if (++slot == SLOTS) slot = 0, slot_parity ^= 1;
