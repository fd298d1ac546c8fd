# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a sampled stack is busy with, as a person would say it."""
from typing import NamedTuple


class Stage(NamedTuple):
    """The first of a list that has one of its functions in the stack is the stack's. `aside`: it is no part of the work: waiting for
    somebody who is at it, or what the benchmark does for itself."""
    name: str
    functions: tuple
    aside: bool = False


SERVICE, SOURCE, PROGRAM = "service", "source", "program"
_WAITS = ("look", "yield", "mf_nbd_lane_wait_soon", "mf_nbd_wait", "spins", "receive_soon", "wait_readable", "mf_nbd_stream_take",
          "g_main_context_iterate", "mf_puller_wait_idle", "__poll", "ppoll", "__ppoll", "pause", "__libc_pause", "accept")

FAULT = {
    PROGRAM: [
        Stage("is stopped by the fault, and goes on", ("handle_userfault",)),
        Stage("the kernel's way into the fault", ("asm_exc_page_fault", "exc_page_fault", "handle_mm_fault", "do_user_addr_fault")),
        Stage("the benchmark itself: checks the page", ("",), True),
    ],
    SERVICE: [
        Stage("asks the source: send", ("ask",)),
        Stage("takes the fault from the kernel: read", ("userfaultfd_read_iter", "userfaultfd_read")),
        Stage("puts the page down and wakes the program: UFFDIO_COPY", ("place_page", "mf_uffd_copy")),
        Stage("takes the answer: recv", ("nbd_aio_notify_read", "mf_nbd_lane_drive")),
        Stage("looks up the page, books, counts", ("handle_fault", "finish_slot", "deliver", "serve_due")),
        Stage("reads, and finds nothing yet", ("read_events",), True),
        Stage("looks for what comes next", _WAITS, True),
        Stage("everything else", ("",)),
    ],
    SOURCE: [
        Stage("reads the page from its store: pread", ("mf_store_read", "mf_nbd_connection_read")),
        Stage("sends the answer: sendmsg", ("mf_nbd_stream_writev",)),
        Stage("understands the request", ("handle_request",)),
        Stage("takes the request: recv", ("_copy_to_iter", "skb_copy_datagram_iter", "unix_stream_read_generic")),
        Stage("looks for what comes next", _WAITS, True),
        Stage("everything else", ("",)),
    ],
}

PULL = {
    PROGRAM: [Stage("stands still", ("",), True)],
    SERVICE: [
        Stage("puts the bytes down: UFFDIO_COPY", ("mf_uffd_copy", "mf_store_filler_copy")),
        Stage("puts the bytes down: books of pages", ("mf_region_put", "put_down")),
        Stage("takes the bytes: recv", ("nbd_aio_notify_read", "mf_nbd_lane_drive", "__libc_recv")),
        Stage("asks: send", ("lane_submit", "submit")),
        Stage("page map, queue, counts", ("on_done", "mf_puller_landed", "fill", "claim", "deliver", "mf_puller_next_take")),
        Stage("looks for what comes next", _WAITS, True),
        Stage("everything else", ("",)),
    ],
    SOURCE: [
        Stage("sends the bytes: sendmsg", ("mf_nbd_stream_writev",)),
        Stage("maps the pages that it sends: page faults", ("asm_exc_page_fault", "exc_page_fault")),
        Stage("looks whether they are there: mincore", ("mincore", "__GI_mincore", "__x64_sys_mincore")),
        Stage("lets go of them again: madvise", ("forget_mapped",)),
        Stage("finds out whether pages are zeroes", ("is_zero", "reply_add_looking", "mf_bytes_are_zero")),
        Stage("reads its store", ("mf_store_read", "mf_nbd_connection_read", "add_through_buffer")),
        Stage("page map, holes, chunks", ("handle_request", "mf_nbd_reply_read")),
        Stage("takes the request: recv", ("_copy_to_iter",)),
        Stage("looks for what comes next", _WAITS, True),
        Stage("everything else", ("",)),
    ],
}


def stage_of(sample, stages):
    inside = {frame.function for frame in sample.frames}
    return next(stage for stage in stages if "" in stage.functions or inside.intersection(stage.functions))


def seconds_by_stage(samples, parts, table):
    """(part, Stage) to seconds; `parts`: pid to SERVICE, SOURCE or PROGRAM. In the order of the table."""
    found = {(part, stage): 0.0 for part, stages in table.items() for stage in stages}
    for sample in samples:
        part = parts[sample.pid]
        found[part, stage_of(sample, table[part])] += sample.seconds
    return found
