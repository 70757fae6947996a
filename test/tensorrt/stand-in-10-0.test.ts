/** The addon against the stand-in for TensorRT 10.0, which lacks what later minor versions brought. */
import { suite } from "../support/tensorrt-suite.js";

suite("10", { version: 100001, text: "10.0.1" });
