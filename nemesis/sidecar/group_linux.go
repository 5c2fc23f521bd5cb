package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups reads control groups.
type cgroups struct {
	root  string // the host's; "" = CgroupDir
	press string // the folder of the file that is read; "" = PressDir
}

func (g *cgroups) do(req GroupRequest, resp *Group) error {
	root := g.root
	if root == "" {
		root = CgroupDir
	}
	read, memory := readGroup1, filepath.Join(root, "memory")
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		read, memory = readGroup2, root
	}
	if req.Press > 0 {
		dir := findGroup(memory, req.Container)
		if dir == "" {
			return noGroup(memory, req.Container)
		}
		if err := g.fillCache(filepath.Join(dir, "cgroup.procs"), req.Press); err != nil {
			return err
		}
	}
	return read(root, req.Container, resp)
}

func noGroup(root, container string) error {
	if _, err := os.Stat(root); err != nil {
		return fmt.Errorf("%w: the host has no control groups for it", err)
	}
	return fmt.Errorf("no control group below %s is named after container %.12s: it does not run", root, container)
}

// readGroup1 reads a container's groups of version 1: each controller has a hierarchy.
func readGroup1(root, container string, g *Group) error {
	dirs := map[string]string{}
	for _, controller := range []string{"cpu", "cpuacct", "memory"} {
		top := filepath.Join(root, controller)
		if dirs[controller] = findGroup(top, container); dirs[controller] == "" {
			return noGroup(top, container)
		}
	}
	var err error
	number := func(controller, file string) int64 {
		n, nerr := readNumber(filepath.Join(dirs[controller], file))
		err = errors.Join(err, nerr)
		return n
	}
	g.Period = time.Duration(number("cpu", "cpu.cfs_period_us")) * time.Microsecond
	g.Quota = time.Duration(number("cpu", "cpu.cfs_quota_us")) * time.Microsecond
	g.CPU = time.Duration(number("cpuacct", "cpuacct.usage"))
	g.Limit = number("memory", "memory.limit_in_bytes")
	g.Usage = number("memory", "memory.usage_in_bytes")
	g.Hits = uint64(number("memory", "memory.failcnt"))
	cpu, cerr := readTable(filepath.Join(dirs["cpu"], "cpu.stat"), "nr_throttled", "throttled_time")
	mem, merr := readTable(filepath.Join(dirs["memory"], "memory.stat"), "total_active_file", "total_inactive_file")
	g.Throttled, g.ThrottledFor = uint64(cpu["nr_throttled"]), time.Duration(cpu["throttled_time"])
	g.Resident = max(0, g.Usage-mem["total_active_file"]-mem["total_inactive_file"])
	return errors.Join(err, cerr, merr)
}

// readGroup2 reads a container's group of version 2.
func readGroup2(root, container string, g *Group) error {
	dir := findGroup(root, container)
	if dir == "" {
		return noGroup(root, container)
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	quota, err := os.ReadFile(file("cpu.max"))
	if err != nil {
		return missing(err)
	}
	if fields := strings.Fields(string(quota)); len(fields) == 2 {
		g.Quota = -time.Microsecond
		if fields[0] != "max" {
			n, perr := strconv.ParseInt(fields[0], 10, 64)
			g.Quota, err = time.Duration(n)*time.Microsecond, perr
		}
		n, perr := strconv.ParseInt(fields[1], 10, 64)
		g.Period, err = time.Duration(n)*time.Microsecond, errors.Join(err, perr)
	} else {
		err = fmt.Errorf("%s: %q", file("cpu.max"), quota)
	}
	cpu, cerr := readTable(file("cpu.stat"), "usage_usec", "nr_throttled", "throttled_usec")
	mem, merr := readTable(file("memory.stat"), "active_file", "inactive_file")
	events, eerr := readTable(file("memory.events"), "max")
	limit, lerr := readNumber(file("memory.max"))
	usage, uerr := readNumber(file("memory.current"))
	g.CPU = time.Duration(cpu["usage_usec"]) * time.Microsecond
	g.Throttled, g.ThrottledFor = uint64(cpu["nr_throttled"]), time.Duration(cpu["throttled_usec"])*time.Microsecond
	g.Limit, g.Usage, g.Hits = limit, usage, uint64(events["max"])
	g.Resident = max(0, usage-mem["active_file"]-mem["inactive_file"])
	return errors.Join(err, cerr, merr, eerr, lerr, uerr)
}

// missing says what a control group's file that is not there means.
func missing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: the host's control groups cannot limit it; it needs the controllers cpu (with CONFIG_CFS_BANDWIDTH) and memory, and of version 1 cpuacct", err)
	}
	return err
}

// readNumber reads a file with a number; "max" is the largest.
func readNumber(file string) (int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, missing(err)
	}
	text := strings.TrimSpace(string(b))
	if text == "max" {
		return math.MaxInt64, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return n, nil
}

// readTable reads a file with a name and a number per line, which has all of names.
func readTable(file string, names ...string) (map[string]int64, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, missing(err)
	}
	table := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			table[name] = n
		}
	}
	for _, name := range names {
		if _, ok := table[name]; !ok {
			return nil, fmt.Errorf("%s has no %s: the host's control groups do not count it", file, name)
		}
	}
	return table, nil
}

// fillCache runs a process that joins a control group and reads a file: what it
// reads is cached at the group's expense, and stays so when the process has ended.
func (g *cgroups) fillCache(procs string, size int64) error {
	dir := g.press
	if dir == "" {
		dir = PressDir
	}
	ctx, cancel := context.WithTimeout(context.Background(), groupTimeout)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe", PressCommand, filepath.Join(dir, "file"), strconv.FormatInt(size, 10), procs)
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("filling the page cache: %w: %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return nil
}

// PressCommand is the first argument of the process that fills the page cache.
const PressCommand = "press"

// Press is that process: it joins the control groups of the files procs, and reads
// a file of size bytes, which is made where there is none, from its disk.
func Press(file, size string, procs ...string) error {
	n, err := strconv.ParseInt(size, 10, 64)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	err = f.Truncate(n)
	if err == nil {
		// What is cached already is at whoever's expense that read it.
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	for _, p := range procs {
		if err == nil {
			err = writeTo(p, "0")
		}
	}
	if err == nil {
		_, err = io.CopyBuffer(onlyWriter{io.Discard}, struct{ io.Reader }{f}, buf)
	}
	return errors.Join(err, f.Close())
}

// onlyWriter hides io.ReaderFrom: the buffer is to be used, and no other is to be made.
type onlyWriter struct{ io.Writer }
