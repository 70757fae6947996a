/** The addon against the stand-in for TensorRT-RTX 1.4, whose loggers and profilers have no version, and which builds for GPUs that are not there. */
import { suite } from "../../support/tensorrt-suite.js";

suite("rtx-1.3");
