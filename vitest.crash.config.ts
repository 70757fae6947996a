import { defineConfig } from "vitest/config";

/** Processes killed at random moments, at length. PARTITA_KILLS sets their number (200), PARTITA_SEED the series. */
export default defineConfig({
  test: {
    include: ["test/crash/**/*.test.ts"],
    testTimeout: 1_400_000,
    maxWorkers: 1,
    pool: "forks",
    reporters: ["verbose"],
  },
});
