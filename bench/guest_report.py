# Turns the cells of bench/guest into tables: medians, ratios, spread. A cell is one count of one proxy's work in one row.
# Used by bench/guest only.
# SPDX-License-Identifier: Apache-2.0
import statistics
import time


def thousands(value):
    return "-" if value is None else f"{value:,.1f}"


def values(cells, row, proxy, value=None):
    return [(value or row.value)(c) for c in cells if c["row"] == row.name and c["proxy"] == proxy.name and not c["errors"]]


def median(cells, row, proxy, value=None):
    found = values(cells, row, proxy, value)
    return statistics.median(found) if found else None


def spread(cells, row, proxy):
    found = values(cells, row, proxy)
    return f"{(max(found) - min(found)) / statistics.median(found) * 100:.1f}%" if len(found) > 1 else "-"


def best(cells, row, proxies):
    """The cheapest peer whose records are made in user space."""
    found = [(median(cells, row, p), p) for p in proxies if p.kind == "peer" and not p.kernel_records]
    found = [pair for pair in found if pair[0]]
    return min(found, key=lambda pair: pair[0])[1] if found else None


def ratio(cells, row, reference, proxy):
    ours, theirs = median(cells, row, proxy), median(cells, row, reference) if reference else None
    return f"{theirs / ours:.2f}" if ours and theirs else "-"


def sockets(cells, row, proxy):
    """Keys of how many sockets the kernel took: that of the engine's name is what was measured."""
    found = [c for c in cells if c["row"] == row.name and c["proxy"] == proxy.name]
    return f"{found[0]['ktls_tx']} / {found[0]['ktls_rx']}" if found else "-"


def grid(title, rows, proxies, text):
    lines = [f"| {title} | " + " | ".join(row.name for row in rows) + " |", "|---|" + "---:|" * len(rows)]
    for proxy in proxies:
        mark = "**" if proxy.kind == "subject" else ""
        lines.append(f"| {mark}{proxy.title}{mark} | " + " | ".join(text(row, proxy) for row in rows) + " |")
    return lines + [""]


def tables(cells, rows, proxies):
    peers = {row.name: best(cells, row, proxies) for row in rows}
    openssl = next((p for p in proxies if p.name == "tlsplice-openssl"), None)
    lines = grid("thousand instructions for one", rows, proxies, lambda row, p: thousands(median(cells, row, p)))
    lines += ["One is: " + "; ".join(f"{row.name}: {row.title}" for row in rows) + ".", ""]
    lines += grid("times as cheap as the best peer in user space", rows, [p for p in proxies if p.kind != "floor"],
                  lambda row, p: ratio(cells, row, peers[row.name], p))
    lines += ["Best peer in user space: "
              + ", ".join(f"{row.name} {peers[row.name].title if peers[row.name] else '-'}" for row in rows) + ".", ""]
    if openssl:
        lines += grid("times as cheap as tlsplice, openssl", rows, [p for p in proxies if p.kind == "subject"],
                      lambda row, p: ratio(cells, row, openssl, p))
    lines += grid("spread of the repeats", rows, proxies, lambda row, p: spread(cells, row, p))
    lines += grid("kernel threads: thousand instructions for one, charged to nobody", rows, proxies,
                  lambda row, p: thousands(median(cells, row, p, row.kernel_value)))
    return lines + grid("sockets whose keys the kernel had, to send / to receive", rows, proxies, lambda row, p: sockets(cells, row, p))


def repeats(cells, rows, proxies):
    """Of how many counts the medians are."""
    found = {len(values(cells, row, p)) for row in rows for p in proxies} - {0}
    return f"{min(found)} to {max(found)}" if len(found) > 1 else str(max(found, default=0))


def commits(cells, proxy):
    return " and ".join(sorted({c["commit"] for c in cells if c["proxy"] == proxy.name}))


def promotion(cells):
    steps = next((c["steps"] for c in cells if c["row"] == "promotion"), None)
    if not steps:
        return []
    return ["| handing a connection over, once for each | instructions |", "|---|---:|"] + [
        f"| {step} | {count:,} |" for step, count in steps.items()] + [""]


def text(cells, remarks, rows, proxies, versions, options):
    proxies = [p for p in proxies if any(c["proxy"] == p.name for c in cells)]
    rows = [row for row in rows if any(c["row"] == row.name for c in cells)]
    lines = [f"# Instructions in the guest, {time.strftime('%Y-%m-%d')}", "",
             f"Linux {cells[0]['kernel']} under an emulator that counts instructions; AES-GCM of that kernel: {cells[0]['aes_gcm']}.",
             f"Medians of {repeats(cells, rows, proxies)} counts, each of a fresh proxy; {options.mib} MiB in bodies of {options.size >> 10} KiB. TLS 1.3, "
             "TLS_AES_128_GCM_SHA256, X25519, ECDSA P-256, one worker.",
             "Instructions of the proxy's threads, its part of the kernel included. bench/README.md says how to read this.", ""]
    lines += tables(cells, rows, proxies) + promotion(cells)
    lines += [f"- {p.title}: {versions.get(p.name) or 'built here'}" + (f", commit {commits(cells, p)}" if p.kind == "subject" else "")
              + (f"; {p.note}" if p.note else "") for p in proxies]
    bad = [f"- {c['proxy']}, {c['row']}: {c['errors']} errors ({c['error']}), not counted" for c in cells if c.get("errors")]
    if bad or remarks:
        lines += ["", "Remarks:", *bad, *(f"- {remark}" for remark in remarks)]
    return "\n".join(lines) + "\n"
