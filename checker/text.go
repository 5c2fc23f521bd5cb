package checker

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/faultline-mq/faultline/checker/history"
)

// group writes n with a comma between thousands: 41,207.
func group(n int) string {
	s := strconv.Itoa(n)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if neg {
		return "-" + s
	}
	return s
}

// count writes "1 fault", "2 faults", "no faults".
func count(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun + "s"
	case 1:
		return "1 " + noun
	}
	return group(n) + " " + noun + "s"
}

// more writes " (and 2 more reasons)", or nothing for 0.
func more(n int, noun string) string {
	if n <= 0 {
		return ""
	}
	return " (and " + strings.Replace(count(n, noun), " ", " more ", 1) + ")"
}

// were writes the verb that agrees with n.
func were(n int) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

// at writes a time of the run in seconds since its start.
func at(t int64) string {
	if t == history.Infinity {
		return "never"
	}
	return fmt.Sprintf("%.3f s", float64(t)/1e9)
}

// msgName names a message: producer 3, message 17.
func msgName(v history.Value) string {
	return fmt.Sprintf("message %d of producer %d", v.Seq(), v.Producer())
}
