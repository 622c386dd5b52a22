"""Sums the times of ncu's CSV by kernel: python ncu_times.py NCU.csv"""

import csv
import re
import sys

times = {}
with open(sys.argv[1]) as file:
    lines = [line for line in file if line.startswith('"')]
for row in csv.DictReader(lines):
    if row.get("Metric Name") != "gpu__time_duration.sum":
        continue
    unit = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "nsecond": 1e-6, "usecond": 1e-3, "msecond": 1.0, "second": 1e3}
    ms = float(row["Metric Value"].replace(",", "")) * unit[row["Metric Unit"]]
    name = re.sub(r"^void |\(.*$", "", row["Kernel Name"]).strip()
    count, total, most = times.get(name, (0, 0.0, 0.0))
    times[name] = (count + 1, total + ms, max(most, ms))
whole = sum(total for _, total, _ in times.values())
print(f"{whole:.1f} ms in {sum(c for c, _, _ in times.values())} launches: opening, one warm-up step and one step together")
print("| ms | share | launches | longest ms | kernel |\n| --- | --- | --- | --- | --- |")
for name, (count, total, most) in sorted(times.items(), key=lambda item: -item[1][1])[:45]:
    print(f"| {total:.2f} | {100 * total / whole:.1f} % | {count} | {most:.3f} | {name[:110]} |")
if whole == 0:
    sys.exit("no kernel was timed")
