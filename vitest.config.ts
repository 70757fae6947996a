import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    exclude: ["test/conformance/**", "test/fuzz/**", "test/gpu/**", "test/tensorrt/**", "test/soak/**", "test/crash/**"],
    testTimeout: 30_000,
    maxWorkers: 2,
    pool: "forks",
  },
});
