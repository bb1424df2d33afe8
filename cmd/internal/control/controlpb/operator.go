package controlpb

import (
	"strings"

	"google.golang.org/grpc"
)

// NoticeHeader is the response header in which a security-admin hears of what nobody
// acknowledged, one value for each, in ASCII.
const NoticeHeader = "redoubt-notice"

// OperatorServices are the operator API: what a manager's own socket passes to the
// leader, call by call. A new service is one more line here, and is registered
// with the leader's server by control.Register.
var OperatorServices = []*grpc.ServiceDesc{&Control_ServiceDesc, &Execs_ServiceDesc, &Revocation_ServiceDesc, &Identities_ServiceDesc, &Slots_ServiceDesc, &Admission_ServiceDesc, &Authority_ServiceDesc, &Secrets_ServiceDesc, &Access_ServiceDesc, &Audit_ServiceDesc, &People_ServiceDesc, &Compliance_ServiceDesc, &Waivers_ServiceDesc, &Approvals_ServiceDesc, &ImagePolicy_ServiceDesc, &Placement_ServiceDesc, &Volumes_ServiceDesc}

// OperatorMethod reports whether a full method name is one of the operator API.
func OperatorMethod(method string) bool {
	for _, d := range OperatorServices {
		if strings.HasPrefix(method, "/"+d.ServiceName+"/") {
			return true
		}
	}
	return false
}
