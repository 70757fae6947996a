          // Straight from registers to global memory; early reads run one step ahead.
#pragma unroll
          for (int turn = 0; turn < TURNS; turn += AHEAD) {
            Early now[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) now[i] = early[i];
            const bool last = turn + AHEAD == TURNS;
            const int rows = last && c + 1 == BN / CHUNK ? r + 1 : r, columns = last ? (c + 1) % (BN / CHUNK) : c;
            if (rows < ROWS / 64) read_ahead(early, m0 + rows * 64, place.n + columns * CHUNK, place, lane, last ? 0 : turn + AHEAD EPILOGUE_ARGUMENTS);
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
              const int row = turn_row(turn + i, lane), column = turn_column(turn + i, lane), m = m0 + r * 64 + row, n = place.n + c * CHUNK + column;
              if (exists(m, n)) {
                Acc v[V];
                take(v, d[r], c, turn + i);
                apply(v, now[i], N_BASE != 0 ? 0 : place.batch, m, place.batch * N_BASE + n EPILOGUE_ARGUMENTS);
              }
            }
          }
