package sidecar

import (
	"net"

	"golang.org/x/sys/unix"
)

// uncheck switches the kernel's checksums of a socket's datagrams off, so that
// damaged ones arrive. Ours tell them from whole ones.
func uncheck(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_NO_CHECK, 1) }); err != nil {
		return err
	}
	return failed
}
