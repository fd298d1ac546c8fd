/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-notify.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Where the manager listens; 0: nowhere. */
static socklen_t
manager_address (struct sockaddr_un *address)
{
  const char *path = g_getenv ("NOTIFY_SOCKET");
  size_t length = path ? strlen (path) : 0;

  /* '@' stands for the zero byte of an abstract name. */
  if (length < 2 || length >= sizeof address->sun_path || (path[0] != '/' && path[0] != '@'))
    return 0;
  *address = (struct sockaddr_un){ .sun_family = AF_UNIX };
  memcpy (address->sun_path, path, length);
  if (path[0] == '@')
    address->sun_path[0] = 0;
  return (socklen_t) (offsetof (struct sockaddr_un, sun_path) + length);
}

void
mf_notify_fd (const char *state, int fd)
{
  union {
    struct cmsghdr align;
    char bytes[CMSG_SPACE (sizeof (int))];
  } control = { 0 };
  struct iovec part = { (char *) state, strlen (state) };
  struct sockaddr_un address;
  struct msghdr message = {
    .msg_name = &address, .msg_namelen = manager_address (&address), .msg_iov = &part, .msg_iovlen = 1
  };
  int through;

  if (message.msg_namelen == 0)
    return;
  if (fd >= 0) {
    control.align =
        (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN (sizeof fd) };
    memcpy (CMSG_DATA (&control.align), &fd, sizeof fd);
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
  }
  through = socket (AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (through < 0)
    return;
  if (sendmsg (through, &message, MSG_NOSIGNAL) < 0)
    g_warning ("telling the service manager at %s: %s", g_getenv ("NOTIFY_SOCKET"), g_strerror (errno));
  close (through);
}

void
mf_notify (const char *state)
{
  mf_notify_fd (state, -1);
}

guint64
mf_notify_watchdog_usec (void)
{
  const char *text = g_getenv ("WATCHDOG_USEC");
  const char *process = g_getenv ("WATCHDOG_PID");
  guint64 usec, pid;

  if (!text || !g_ascii_string_to_unsigned (text, 10, 1, G_MAXINT64, &usec, NULL))
    return 0;
  /* Meant for a parent of ours. */
  if (process && (!g_ascii_string_to_unsigned (process, 10, 1, G_MAXINT, &pid, NULL) || (pid_t) pid != getpid ()))
    return 0;
  return usec;
}
