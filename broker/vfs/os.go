package vfs

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
)

// OS returns the operating system's file system, rooted at the directory root, which must exist. Files are made with
// mode 0644 and directories with 0755, both less the umask.
func OS(root string) FS { return osFS{root} }

type osFS struct{ root string }

type osFile struct{ *os.File }

var (
	_ FS   = osFS{}
	_ File = osFile{}
)

func (o osFS) path(op, name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", pathError(op, name, fs.ErrInvalid)
	}
	return filepath.Join(o.root, filepath.FromSlash(name)), nil
}

func (o osFS) MkdirAll(dir string) error {
	p, err := o.path(OpMkdir, dir)
	if err != nil {
		return err
	}
	return os.MkdirAll(p, 0o755)
}

func (o osFS) OpenFile(name string, create bool) (File, error) {
	p, err := o.path(OpOpen, name)
	if err != nil {
		return nil, err
	}
	flag := os.O_RDWR
	if create {
		flag |= os.O_CREATE
	}
	f, err := os.OpenFile(p, flag, 0o644)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (o osFS) Remove(name string) error {
	p, err := o.path(OpRemove, name)
	if err != nil {
		return err
	}
	if name == "." {
		return pathError(OpRemove, name, fs.ErrInvalid)
	}
	return os.Remove(p)
}

func (o osFS) RemoveAll(name string) error {
	p, err := o.path(OpRemove, name)
	if err != nil {
		return err
	}
	if name == "." {
		return pathError(OpRemove, name, fs.ErrInvalid)
	}
	return os.RemoveAll(p)
}

func (o osFS) Rename(oldName, newName string) error {
	from, err := o.path(OpRename, oldName)
	if err != nil {
		return err
	}
	to, err := o.path(OpRename, newName)
	if err != nil {
		return err
	}
	if oldName == "." || newName == "." {
		return pathError(OpRename, oldName, fs.ErrInvalid)
	}
	if path.Dir(oldName) != path.Dir(newName) {
		return pathError(OpRename, oldName, syscall.EXDEV)
	}
	return os.Rename(from, to)
}

func (o osFS) List(dir string) ([]string, error) {
	p, err := o.path(OpList, dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(p) // sorted by name
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (o osFS) Stat(name string) (Info, error) {
	p, err := o.path(OpStat, name)
	if err != nil {
		return Info{}, err
	}
	st, err := os.Stat(p)
	if err != nil {
		return Info{}, err
	}
	if st.IsDir() {
		return Info{Dir: true}, nil
	}
	return Info{Size: st.Size()}, nil
}

func (o osFS) SyncDir(dir string) (err error) {
	p, err := o.path(OpSyncDir, dir)
	if err != nil {
		return err
	}
	d, err := os.Open(p)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := d.Close(); err == nil {
			err = cerr
		}
	}()
	return d.Sync()
}

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}
