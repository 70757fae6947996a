import { defineConfig } from "vitest/config";

/** The longer suites over the test data; PARTITA_TEST_DATA names its folder. */
export default defineConfig({
  test: {
    include: ["test/conformance/**/*.test.ts"],
    testTimeout: 1_200_000,
    hookTimeout: 600_000,
    maxWorkers: 2,
    pool: "forks",
    reporters: ["verbose"],
  },
});
