/** The addon against the stand-in for TensorRT 11. */
import { suite } from "../support/tensorrt-suite.js";

suite("11");
