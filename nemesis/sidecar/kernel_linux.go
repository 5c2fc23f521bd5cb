package sidecar

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// lookAtKernel reads what the kernel lists of itself, and tries a netem queue.
func lookAtKernel() *Kernel {
	k := &Kernel{
		Loop: listed("/proc/devices", "loop"), Ext4: listed("/proc/filesystems", "ext4"),
		FUSE: listed("/proc/filesystems", "fuse"), DeviceMapper: listed("/proc/misc", "device-mapper"),
	}
	if err := tryNetem(); err != nil {
		k.Netem = err.Error()
	}
	return k
}

// listed reports whether a line of file ends in a word.
func listed(file, word string) bool {
	b, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == word {
			return true
		}
	}
	return false
}

// Of linux/rtnetlink.h and linux/pkt_sched.h.
const (
	sizeofTcmsg = 20 // the interface is at offset 4, the parent at 12
	tcaKind     = 1
	tcaOptions  = 2
	tcRoot      = 0xffffffff
	netemQopt   = 24 // the size of struct tc_netem_qopt
)

// tryNetem puts a netem queue that does nothing on the loopback interface of this
// network namespace, and takes it away again.
func tryNetem() error {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		return err
	}
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	attrs, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: tcaKind, Data: append([]byte("netem"), 0)},
		{Type: tcaOptions, Data: make([]byte, netemQopt)},
	})
	if err != nil {
		return err
	}
	msg := make([]byte, sizeofTcmsg, sizeofTcmsg+len(attrs))
	binary.NativeEndian.PutUint32(msg[4:], uint32(lo.Index))
	binary.NativeEndian.PutUint32(msg[12:], tcRoot)
	add := netlink.Message{
		Header: netlink.Header{Type: unix.RTM_NEWQDISC, Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Replace},
		Data:   append(msg, attrs...),
	}
	_, err = c.Execute(add)
	switch {
	case errors.Is(err, unix.ENOENT):
		return errors.New("the kernel has no netem (CONFIG_NET_SCH_NETEM)")
	case err != nil:
		return fmt.Errorf("making a netem queue: %w", err)
	}
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_DELQDISC, Flags: netlink.Request | netlink.Acknowledge},
		Data:   msg,
	})
	return err
}
