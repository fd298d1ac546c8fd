/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>

G_BEGIN_DECLS

/* Marks what libmemferry.so shows to its users; everything else is hidden. */
#define MF_API __attribute__ ((visibility ("default")))

/**
 * MfError:
 * @MF_ERROR_FAILED: nothing more precise can be said; the message says what happened
 * @MF_ERROR_INVALID: an argument, a file or a name that can't be right: correct it and call again
 * @MF_ERROR_EXISTS: the name is taken
 * @MF_ERROR_NOT_FOUND: no such region, job, file or export
 * @MF_ERROR_BUSY: the thing is in use by somebody else; try again when it is free
 * @MF_ERROR_NOT_SUPPORTED: the kernel, the file system, the program or the peer can't do it
 * @MF_ERROR_NO_SPACE: the store's file system has too little room for the region
 * @MF_ERROR_PERMISSION: the right to do it is missing
 * @MF_ERROR_PROTOCOL: the other side broke the protocol, or it is not one of ours
 * @MF_ERROR_VERSION: the other side speaks a version that this one can't
 * @MF_ERROR_CONNECTION: the connection could not be made or was lost: the same call may succeed later
 * @MF_ERROR_TIMED_OUT: the other side did not answer in time
 * @MF_ERROR_CANCELLED: the caller cancelled
 * @MF_ERROR_PROGRAM: the program whose memory moves (QEMU) refused or failed
 * @MF_ERROR_NOT_CONVERGING: the program writes faster than the link carries and only pre-copy is allowed
 * @MF_ERROR_IO: a read or write failed
 *
 * What went wrong, as far as a caller can act on it. The message is one line for a person: what, where, what to do.
 */
typedef enum {
  MF_ERROR_FAILED,
  MF_ERROR_INVALID,
  MF_ERROR_EXISTS,
  MF_ERROR_NOT_FOUND,
  MF_ERROR_BUSY,
  MF_ERROR_NOT_SUPPORTED,
  MF_ERROR_NO_SPACE,
  MF_ERROR_PERMISSION,
  MF_ERROR_PROTOCOL,
  MF_ERROR_VERSION,
  MF_ERROR_CONNECTION,
  MF_ERROR_TIMED_OUT,
  MF_ERROR_CANCELLED,
  MF_ERROR_PROGRAM,
  MF_ERROR_NOT_CONVERGING,
  MF_ERROR_IO,
} MfError;

#define MF_ERROR (mf_error_quark ())

MF_API GQuark mf_error_quark (void);

/* Fills `error` from an errno value: the code that fits it, and "`what`: strerror". Always returns FALSE, so that a caller
 * can write `return mf_error_from_errno (error, errno, "opening %s", path);`. */
gboolean mf_error_from_errno (GError **error, int errnum, const char *what, ...) G_GNUC_PRINTF (3, 4);

/* The MfError that fits an errno value. */
MfError mf_error_code_from_errno (int errnum);

G_END_DECLS
