/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-error.h"

#include <errno.h>
#include <gio/gio.h>

/* The names are what a GDBusError carries across a link, so that a peer's error arrives with the code it left with. */
static const GDBusErrorEntry dbus_names[] = {
  { MF_ERROR_FAILED, "org.memferry.Error.Failed" },
  { MF_ERROR_INVALID, "org.memferry.Error.Invalid" },
  { MF_ERROR_EXISTS, "org.memferry.Error.Exists" },
  { MF_ERROR_NOT_FOUND, "org.memferry.Error.NotFound" },
  { MF_ERROR_BUSY, "org.memferry.Error.Busy" },
  { MF_ERROR_NOT_SUPPORTED, "org.memferry.Error.NotSupported" },
  { MF_ERROR_NO_SPACE, "org.memferry.Error.NoSpace" },
  { MF_ERROR_PERMISSION, "org.memferry.Error.Permission" },
  { MF_ERROR_PROTOCOL, "org.memferry.Error.Protocol" },
  { MF_ERROR_VERSION, "org.memferry.Error.Version" },
  { MF_ERROR_CONNECTION, "org.memferry.Error.Connection" },
  { MF_ERROR_TIMED_OUT, "org.memferry.Error.TimedOut" },
  { MF_ERROR_CANCELLED, "org.memferry.Error.Cancelled" },
  { MF_ERROR_PROGRAM, "org.memferry.Error.Program" },
  { MF_ERROR_NOT_CONVERGING, "org.memferry.Error.NotConverging" },
  { MF_ERROR_IO, "org.memferry.Error.Io" },
};

GQuark
mf_error_quark (void)
{
  static gsize quark;

  g_dbus_error_register_error_domain ("mf-error-quark", &quark, dbus_names, G_N_ELEMENTS (dbus_names));
  return (GQuark) quark;
}

MfError
mf_error_code_from_errno (int errnum)
{
  switch (errnum) {
  case EINVAL:
  case ENAMETOOLONG:
  case EISDIR:
  case ENOTDIR:
    return MF_ERROR_INVALID;
  case EEXIST:
    return MF_ERROR_EXISTS;
  case ENOENT:
    return MF_ERROR_NOT_FOUND;
  case EBUSY:
  case ETXTBSY:
  case EADDRINUSE:
    return MF_ERROR_BUSY;
  case ENOSYS:
  case ENOTSUP:
  case ENODEV:
    return MF_ERROR_NOT_SUPPORTED;
  case ENOSPC:
  case ENOMEM:
  case EDQUOT:
    return MF_ERROR_NO_SPACE;
  case EACCES:
  case EPERM:
  case EROFS:
    return MF_ERROR_PERMISSION;
  case EPROTO:
  case EBADMSG:
    return MF_ERROR_PROTOCOL;
  case ECONNREFUSED:
  case ECONNRESET:
  case ECONNABORTED:
  case ENOTCONN:
  case EPIPE:
  case EHOSTUNREACH:
  case ENETUNREACH:
  case ESHUTDOWN:
    return MF_ERROR_CONNECTION;
  case ETIMEDOUT:
    return MF_ERROR_TIMED_OUT;
  case ECANCELED:
    return MF_ERROR_CANCELLED;
  case EIO:
    return MF_ERROR_IO;
  default:
    return MF_ERROR_FAILED;
  }
}

gboolean
mf_error_from_errno (GError **error, int errnum, const char *what, ...)
{
  g_autofree char *text = NULL;
  va_list args;

  va_start (args, what);
  text = g_strdup_vprintf (what, args);
  va_end (args);
  g_set_error (error, MF_ERROR, mf_error_code_from_errno (errnum), "%s: %s", text, g_strerror (errnum));
  return FALSE;
}
