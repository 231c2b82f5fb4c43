module github.com/weir-run/weir/test/cluster

go 1.26.0

require golang.org/x/sys v0.49.0
