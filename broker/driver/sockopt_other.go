//go:build !linux

package driver

import (
	"net"
	"time"
)

// setUserTimeout is Linux's; elsewhere keepalive and write deadlines have to do.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
