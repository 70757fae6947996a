#!/usr/bin/env node
/** The command line's entry: argv in, exit code out. */
import { run } from "./program.js";

process.exitCode = await run(process.argv.slice(2), { stdout: process.stdout, stderr: process.stderr, env: process.env });
