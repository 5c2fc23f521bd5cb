//go:build !linux

package sidecar

import "errors"

func identity(string) (string, error) { return "", errors.ErrUnsupported }
