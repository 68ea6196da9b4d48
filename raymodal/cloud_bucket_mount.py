"""`CloudBucketMount`: a bucket as a folder. Recorded; not mounted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raymodal import _later
from raymodal._later import later
from raymodal.spec.storage import BucketSpec

if TYPE_CHECKING:
    from raymodal.secret import Secret


@dataclass
class CloudBucketMount:
    """A bucket for `volumes=`. A run warns that it is not mounted."""

    bucket_name: str
    bucket_endpoint_url: str | None = None
    key_prefix: str | None = None
    secret: Secret | None = None
    oidc_auth_role_arn: str | None = None
    read_only: bool = False
    requester_pays: bool = False
    force_path_style: bool = False

    def _spec(self, mount_path: str) -> BucketSpec:
        if self.requester_pays and self.secret is None:
            raise ValueError(
                f"CloudBucketMount({self.bucket_name!r}): requester_pays=True needs secret= with the credentials that pay"
            )
        if self.key_prefix and not self.key_prefix.endswith("/"):
            raise ValueError(f"CloudBucketMount({self.bucket_name!r}): key_prefix={self.key_prefix!r} must end in '/'")
        return BucketSpec(
            mount_path=mount_path,
            bucket_name=self.bucket_name,
            endpoint_url=self.bucket_endpoint_url,
            key_prefix=self.key_prefix,
            read_only=self.read_only,
            requester_pays=self.requester_pays,
            force_path_style=self.force_path_style,
            oidc_auth_role_arn=self.oidc_auth_role_arn,
            secret=None if self.secret is None else self.secret._spec,
        )


@later(_later.INTERNAL)
def cloud_bucket_mounts_to_proto(  # type: ignore[empty-body]
    mounts: Sequence[tuple[str, CloudBucketMount]],
    split_ephemeral_credentials: bool = False,
    include_secrets: bool = True,
) -> tuple[list[Any], dict[str, Any]]:
    """Declared only."""
