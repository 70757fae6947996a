/**
 * The addon against the stand-in for TensorRT 11, whose interfaces carry versions. The suite triggers and pins P2213, P2214, P2216, P2217, P2218,
 * P2219, P2220, P2221, P2224 and P2225.
 */
import { suite } from "../../support/tensorrt-suite.js";

suite("11");
