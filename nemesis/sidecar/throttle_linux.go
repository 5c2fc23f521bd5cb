package sidecar

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// throttle limits writes to a block device, by control group: of version 1
// (blkio), or of version 2 (io). It waits in front of the device, so a sync waits
// as well, and nothing that was not synced gets durable by it.
type throttle struct {
	root  string            // the host's control groups; "" = CgroupDir
	known map[string]string // container → its control group
}

// hierarchy is where control groups throttle.
func (t *throttle) hierarchy() (root string, two bool) {
	root = t.root
	if root == "" {
		root = CgroupDir
	}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return root, true
	}
	return filepath.Join(root, "blkio"), false
}

// find returns the control group of a container that runs, or "".
func (t *throttle) find(container string) string {
	if dir := t.known[container]; dir != "" {
		if _, err := os.Stat(dir); err == nil {
			return dir
		}
	}
	root, _ := t.hierarchy()
	found := findGroup(root, container)
	if t.known == nil {
		t.known = map[string]string{}
	}
	t.known[container] = found
	return found
}

// findGroup returns the control group of a container in a hierarchy, or "". Where
// it is, the engine and its driver choose; its name has the id in it.
func findGroup(root, container string) (found string) {
	if real, err := filepath.EvalSymlinks(root); err == nil {
		root = real // cpu is a link to cpu,cpuacct on many hosts
	}
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err == nil && container != "" && e.IsDir() && strings.Contains(e.Name(), container) {
			found = path
			return fs.SkipAll
		}
		return nil // what goes away meanwhile is not it
	})
	return found
}

// first returns the control group of the first container that runs and is not
// frozen, or "": a process in a frozen one would not return.
func (t *throttle) first(containers []string) string {
	for _, c := range containers {
		dir := t.find(c)
		if dir == "" {
			continue
		}
		if frozen, err := os.ReadFile(filepath.Join(dir, "cgroup.freeze")); err == nil && strings.TrimSpace(string(frozen)) == "1" {
			continue
		}
		return dir
	}
	return ""
}

// limit lets rate writes per second through to a device (major:minor), for each
// of the containers that run; 0 = all.
func (t *throttle) limit(device string, containers []string, rate int) error {
	_, two := t.hierarchy()
	file, line := "blkio.throttle.write_iops_device", fmt.Sprintf("%s %d", device, rate)
	if two {
		file, line = "io.max", fmt.Sprintf("%s wiops=%d", device, rate)
		if rate == 0 {
			line = device + " wiops=max"
		}
	}
	throttled := false
	for _, c := range containers {
		dir := t.find(c)
		if dir == "" {
			continue
		}
		if two {
			t.enable(dir)
		}
		err := writeTo(filepath.Join(dir, file), line)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: the host's control groups cannot throttle block devices; it needs the controller blkio (version 1) or io (version 2), and a kernel with CONFIG_BLK_DEV_THROTTLING", err)
		}
		if err != nil {
			return err
		}
		throttled = true
	}
	if !throttled {
		return fmt.Errorf("none of the host's control groups is named after container %s", strings.Join(containers, " or "))
	}
	return nil
}

// enable hands the controller io down to a control group of version 2; what
// fails is seen when it is used.
func (t *throttle) enable(dir string) {
	root, _ := t.hierarchy()
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		return
	}
	at := root
	for _, name := range strings.Split(rel, string(filepath.Separator)) {
		_ = writeTo(filepath.Join(at, "cgroup.subtree_control"), "+io")
		at = filepath.Join(at, name)
	}
}

// writeTo writes into a control group's file, which must be there: to make one is
// refused with another error.
func writeTo(file, text string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
