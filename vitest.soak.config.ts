import { defineConfig } from "vitest/config";

/** Sessions and the example server under load for a minute or two each: right answers, flat memory. Bounded in requests and time; the loopback address only. */
export default defineConfig({
  test: {
    include: ["test/soak/**/*.test.ts"],
    testTimeout: 300_000,
    hookTimeout: 120_000,
    maxWorkers: 1,
    pool: "forks",
    reporters: ["verbose"],
  },
});
