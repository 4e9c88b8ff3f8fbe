# Turns the cells of a bench run into the table: medians, ratios within rounds, spread, versions.
# Used by bench/run only.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import platform
import re
import statistics
import subprocess
import time


def cells_of(cells, row, proxy):
    """Values by round. Rows without a load of their own are other readings of the row above them."""
    source = row.source if row.load is None else row.name
    return {c["round"]: row.value(c) for c in cells if c["row"] == source and c["proxy"] == proxy.name}


def link_readings(rows):
    last = None
    for row in rows:
        if row.load:
            last = row.name
        row.source = last


def median(values):
    return statistics.median(values.values()) if values else None


def best_peer(cells, row, proxies):
    found = [(median(cells_of(cells, row, p)), p) for p in proxies if p.kind == "peer"]
    found = [(value, p) for value, p in found if value is not None]
    if not found:
        return None
    pick = min if row.better == "less" else max
    return pick(found, key=lambda pair: pair[0])[1]


def ratios(ours, theirs, row):
    """Round by round, so that what disturbed both does not count; above 1 means ours is better."""
    common = sorted(set(ours) & set(theirs))
    if row.better == "less":
        return [theirs[r] / ours[r] for r in common if ours[r] > 0]
    return [ours[r] / theirs[r] for r in common if theirs[r] > 0]


def number(value, row):
    return "-" if value is None else f"{value:,.{row.digits}f}"


def ratio_text(cells, row, proxies):
    subject = next((p for p in proxies if p.kind == "subject"), None)
    best = best_peer(cells, row, proxies)
    if not subject or not best:
        return f"- | {best.title if best else '-'}"
    found = ratios(cells_of(cells, row, subject), cells_of(cells, row, best), row)
    if not found:
        return f"- | {best.title}"
    text = f"**{statistics.median(found):.2f}**"
    if len(found) > 1:
        text += f" ({min(found):.2f}-{max(found):.2f})"
    return f"{text} | {best.title}"


def values_table(cells, rows, proxies):
    lines = ["| | " + " | ".join(p.title for p in proxies) + " | tlsplice to best peer | best peer |",
             "|---|" + "---|" * (len(proxies) + 2)]
    for row in rows:
        columns = [number(median(cells_of(cells, row, p)), row) for p in proxies]
        lines.append(f"| {row.title}: {row.unit} | " + " | ".join(columns) + f" | {ratio_text(cells, row, proxies)} |")
    return lines


def spread(cells, row, proxy):
    values = list(cells_of(cells, row, proxy).values())
    middle = statistics.median(values) if values else 0
    return f"{(max(values) - min(values)) / middle * 100:.0f}%" if len(values) > 1 and middle else "-"


def busy(cells, row, proxy):
    """How much of its core the proxy used: far below 100 % means the load generator was the limit."""
    found = [c["cpu"] / c["seconds"] for c in cells if c["row"] == row.name and c["proxy"] == proxy.name and row.name != "idle"]
    return f"{statistics.median(found) * 100:.0f}%" if found else "-"


def doubt_table(cells, rows, proxies):
    lines = ["| spread of the rounds, share of the core used | " + " | ".join(p.title for p in proxies) + " |",
             "|---|" + "---|" * len(proxies)]
    for row in rows:
        lines.append(f"| {row.name} | " + " | ".join(f"{spread(cells, row, p)}, {busy(cells, row, p)}" for p in proxies) + " |")
    return lines


def disturbance(cells):
    """Interrupts that no process answers for are in it, so a few per cent are normal."""
    found = [c["others"] / c["seconds"] for c in cells if "others" in c]
    if not found:
        return ""
    return f"Others used {statistics.median(found) * 100:.0f}% of the proxy's core (median of the cells, at most {max(found) * 100:.0f}%)."


def commit():
    top = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    result = subprocess.run(["git", "-C", top, "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    return result.stdout.strip()


def errors(cells, proxies):
    titles = {p.name: p.title for p in proxies}
    return [f"- {titles[c['proxy']]}, {c['row']}, round {c['round'] + 1}: {c['errors']} errors ({c['error']})" for c in cells if c["errors"]]


def host():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"^model name\s*:\s*(.*)$|^CPU part\s*:\s*(.*)$", f.read(), re.M)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    openssl = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=False).stdout.strip()
    cpu = next((group for group in model.groups() if group), "?") if model else "?"
    return f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB; {platform.system()} {platform.release()} {platform.machine()}; {openssl}"


def table(cells, rows, proxies, versions, options):
    link_readings(rows)
    rows = [row for row in rows if any(cells_of(cells, row, p) for p in proxies)]
    lines = [f"# Bench of {time.strftime('%Y-%m-%d')}", "", host() + ".",
             f"{options.rounds} interleaved rounds of {options.seconds} s per cell, medians. TLS 1.3, TLS_AES_128_GCM_SHA256, X25519, "
             "ECDSA P-256, one worker on one core; load generator and origin on another"
             + ("." if options.namespace else ", on the host's own loopback device."),
             "Ratio: above 1 is better for tlsplice, whatever the row; median, lowest and highest of the rounds. "
             "bench/README.md says how to read this.", ""]
    lines += values_table(cells, rows, proxies) + [""]
    lines += doubt_table(cells, [row for row in rows if row.load], proxies) + [""]
    lines += [disturbance(cells), ""]
    lines += [f"- {p.title}: {versions[p.name] or 'built here'}" + (f", commit {commit()}" if p.kind == "subject" else "")
              + (f"; {p.note}" if p.note else "") for p in proxies]
    trouble = errors(cells, proxies)
    if trouble:
        lines += ["", "Errors:"] + trouble
    return "\n".join(lines) + "\n"


def save(path, text, cells):
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)
    with open(os.path.splitext(path)[0] + ".json", "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c) for c in cells) + "\n]\n")
    print(f"written to {path}")
