#!/usr/bin/env python3
"""tests/tsan.py BUILD [--quick] - what has threads, in a build with ThreadSanitizer and with one OpenMP thread, but for the trainer's.

Unit tests of common, proto, the state machines, loops and queues, and runs of the cluster with a killed worker. GNU's OpenMP is not
instrumented, so tests of kernels with several threads are not among them, nor what measures a machine; of the trainer's, what is
outside of parallel regions is judged. Ends with "tsan: passed=N failed=M"."""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
QUICK = ["comm", "core_coord", "core_loader", "core_worker", "error", "file", "journal", "loader_process", "socket", "wire"]
REST = ["captions", "cluster", "config", "core_liar", "dataset", "hf", "image", "inspect", "ledger", "loader_commands",
        "protocol", "random", "safetensors", "source", "tokenizer", "trainer", "unicode"]
RUN = "a_killed_worker_costs_no_step"  # with both projectors
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive",
               "TSAN_OPTIONS": "suppressions=%s/tests/tsan.supp:exitcode=66" % ROOT}


def main():
    folder = os.path.abspath(sys.argv[1])
    quick = "--quick" in sys.argv
    environment = dict(os.environ, BLIPREN_SOURCE=ROOT, BLIPREN_LOADER=os.path.join(folder, "blipren-loader"),
                       BLIPREN_WORKER=os.path.join(folder, "blipren-worker"), BLIPREN_BUILD=folder, **ENVIRONMENT)
    commands = [[os.path.join(folder, "tests/unit/%s_test" % name)] for name in QUICK + ([] if quick else REST)]
    commands.append([sys.executable, os.path.join(ROOT, "tests/e2e/cluster_test.py"), RUN])
    failed = 0
    for command in commands:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode or "ThreadSanitizer" in done.stdout:
            failed += 1
            print("FAIL (%d) %s\n%s" % (done.returncode, " ".join(command), done.stdout[:12000]), flush=True)
    print("tsan: passed=%d failed=%d" % (len(commands) - failed, failed))
    return 1 if failed else 0


sys.exit(main())
