/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "report.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <termios.h>
#include <unistd.h>

enum {
  LINE_BYTES = 200,
  ERRORS_PRINTED = 8
};

report_counters report;

static void
write_line (const char *prefix, const char *format, va_list args)
{
  char line[LINE_BYTES];
  int length = snprintf (line, sizeof line - 1, "%s", prefix);

  length += vsnprintf (line + length, sizeof line - 1 - (size_t) length, format, args);
  if (length > LINE_BYTES - 2)
    length = LINE_BYTES - 2;
  line[length++] = '\n';
  /* A console that takes no more has no other place to say so. */
  if (write (STDOUT_FILENO, line, (size_t) length) < 0)
    return;
}

void
report_line (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  write_line ("", format, args);
  va_end (args);
}

/* Where `address` is in guest physical memory, so that the host can look at the same bytes; 0 when the kernel won't say. */
static uint64_t
physical_address (const void *address)
{
  uint64_t virtual = (uintptr_t) address, entry = 0;
  int fd = open ("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

  if (fd < 0)
    return 0;
  if (pread (fd, &entry, sizeof entry, (off_t) (virtual / 4096 * sizeof entry)) != (ssize_t) sizeof entry)
    entry = 0;
  close (fd);
  if (entry >> 63 == 0)
    return 0;
  return (entry & ((UINT64_C (1) << 55) - 1)) * 4096 + virtual % 4096;
}

void
report_error (const char *where, uint64_t number, const uint64_t *address, uint64_t expected, uint64_t found)
{
  if (atomic_fetch_add (&report.errors, 1) >= ERRORS_PRINTED)
    return;
  report_line ("ERR %s %llu gpa=0x%llx expected=0x%016llx found=0x%016llx", where, (unsigned long long) number,
               (unsigned long long) physical_address (address), (unsigned long long) expected,
               (unsigned long long) found);
}

void
report_fatal (const char *format, ...)
{
  va_list args;

  va_start (args, format);
  write_line ("FATAL ", format, args);
  va_end (args);
  /* exit() drops what the serial port has not sent yet: the line would be lost. */
  tcdrain (STDOUT_FILENO);
  _exit (1);
}
