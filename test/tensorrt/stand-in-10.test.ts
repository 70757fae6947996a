/** The addon against the stand-in for TensorRT 10.13. */
import { suite } from "../support/tensorrt-suite.js";

suite("10");
