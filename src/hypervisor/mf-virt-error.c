/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypervisor/mf-virt-error.h"

#include <libvirt/libvirt.h>
#include <libvirt/virterror.h>

static void
ignore (void *user_data, virErrorPtr error)
{
}

void
mf_virt_be_quiet (void)
{
  /* Before libvirt's first call, which reads it: warnings go to standard error as well. */
  g_setenv ("LIBVIRT_DEBUG", "4", FALSE);
  virSetErrorFunc (NULL, ignore);
}

static MfError
code_of (int code)
{
  switch (code) {
  case VIR_ERR_NO_DOMAIN:
    return MF_ERROR_NOT_FOUND;
  case VIR_ERR_AUTH_FAILED:
  case VIR_ERR_AUTH_CANCELLED:
  case VIR_ERR_AUTH_UNAVAILABLE:
  case VIR_ERR_OPERATION_DENIED:
  case VIR_ERR_ACCESS_DENIED:
    return MF_ERROR_PERMISSION;
  case VIR_ERR_NO_CONNECT:
  case VIR_ERR_SYSTEM_ERROR:
  case VIR_ERR_RPC:
    return MF_ERROR_CONNECTION;
  case VIR_ERR_NO_SUPPORT:
  case VIR_ERR_CONFIG_UNSUPPORTED:
    return MF_ERROR_NOT_SUPPORTED;
  default:
    return MF_ERROR_FAILED;
  }
}

gboolean
mf_error_from_virt (GError **error, const char *what)
{
  virErrorPtr wrong = virGetLastError ();

  g_set_error (error, MF_ERROR, code_of (wrong ? wrong->code : VIR_ERR_INTERNAL_ERROR), "%s: %s", what,
               wrong && wrong->message ? wrong->message : "libvirt gives no reason");
  virResetLastError ();
  return FALSE;
}
