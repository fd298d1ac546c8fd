/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mf-size.h"

#include <stddef.h>
#include <string.h>

bool
mf_size_parse (const char *text, uint64_t *out, const char **rest)
{
  static const char units[] = "KkMmGgTt";
  const char *at = text;
  uint64_t value = 0;
  const char *unit;
  unsigned shift = 0;

  if (*at < '0' || *at > '9')
    return false;
  for (; *at >= '0' && *at <= '9'; at++) {
    unsigned digit = (unsigned) (*at - '0');

    if (value > ((uint64_t) INT64_MAX - digit) / 10)
      return false;
    value = value * 10 + digit;
  }
  unit = *at != '\0' ? strchr (units, *at) : NULL;
  if (unit != NULL) {
    shift = 10 * ((unsigned) (unit - units) / 2 + 1);
    at++;
  }
  if (value > (uint64_t) INT64_MAX >> shift)
    return false;
  *out = value << shift;
  *rest = at;
  return true;
}
